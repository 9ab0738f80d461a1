from __future__ import annotations

import pytest

from benchmarks import scoring
from gpg_vl.tasks import TASKS
from gpg_vl.tasks.base import score_completion


@pytest.mark.parametrize("name", scoring.CASES)
def test_answers_are_readable_and_differ(name: str) -> None:
    case = scoring.CASES[name]
    task = TASKS[case.sample.task]
    task.check(case.sample)
    for are_distinct in (False, True):
        texts = scoring.completions(case, 60, are_distinct)
        assert len(set(texts)) == (60 if are_distinct else len(set(case.repeated)))
    earned = [
        score_completion(task, case.sample, text, [scoring.VIEW]).parts[task.main_part]
        for text in scoring.completions(case, 12, are_distinct=False)
    ]
    assert 0 < sum(earned) < len(earned)


def test_every_case_is_measured_each_way() -> None:
    rates = scoring.measure(num=20, rounds=1)
    ways = {f"{kind}, {way}" for kind in ("repeated", "distinct") for way in ("alone", "pool")}
    assert {name: set(each) for name, each in rates.items()} == dict.fromkeys(scoring.CASES, ways)
    assert all(len(each) == 1 and each[0] > 0 for case in rates.values() for each in case.values())
