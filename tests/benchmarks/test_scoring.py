from __future__ import annotations

import pytest

from benchmarks import scoring
from gpg_vl.tasks import TASKS
from gpg_vl.tasks.base import score_completion


def earned(groups: list[scoring.Group]) -> list[float]:
    parts = [(TASKS[sample.task], sample, text) for sample, texts in groups for text in texts]
    return [score_completion(task, sample, text, [scoring.VIEW]).parts[task.main_part] for task, sample, text in parts]


@pytest.mark.parametrize("name", scoring.CASES)
def test_answers_are_readable_and_differ(name: str) -> None:
    case = scoring.CASES[name]
    TASKS[case.sample.task].check(case.sample)
    for kind in ("repeated", "distinct"):
        texts = [text for _, texts in scoring.groups(case, 64, kind) for text in texts]
        assert len(set(texts)) == (64 if kind == "distinct" else len(set(case.repeated)))
    assert 0 < sum(earned(scoring.groups(case, 16, "repeated"))) < 16


@pytest.mark.parametrize("name", scoring.CASES)
def test_every_new_row_has_a_right_answer_and_is_seen_once(name: str) -> None:
    groups = scoring.groups(scoring.CASES[name], 64, "new rows", start=8)
    assert len({(sample.question, sample.answer) for sample, _ in groups}) == len(groups) == 8
    for sample, texts in groups:
        TASKS[sample.task].check(sample)
        assert len(set(texts)) == scoring.GROUP
        assert 0.9 < sum(earned([(sample, texts)])) < scoring.GROUP


def test_every_case_is_measured_each_way() -> None:
    rates = scoring.measure(num=24, rounds=1)
    ways = {f"{kind}, {way}" for kind in scoring.KINDS for way in ("alone", "pool")}
    assert {name: set(each) for name, each in rates.items()} == dict.fromkeys(scoring.CASES, ways)
    assert all(len(each) == 1 and each[0] > 0 for case in rates.values() for each in case.values())
