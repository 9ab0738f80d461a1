"""Answers as vision-language models write them, each with the verdict of a careful teacher.

``python -m tests.tasks.test_reward_cases [TASK]`` prints the answers on which a task disagrees.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.records import ImageView, Reward, Sample
from gpg_vl.tasks import TASKS
from gpg_vl.tasks.base import score_completion
from tests.support.shared_data import SHARED_DATA, shared_file

NAME = "reward_cases.jsonl"
LEAST_RIGHT = 0.97
CLOSE = 0.005  # of an overlap
COLUMNS = ("task", "completion", "answer", "want", "class", "question", "note")


@dataclass(frozen=True)
class Case:
    number: int
    row: dict[str, Any]
    reward: Reward

    @property
    def wanted(self) -> float:
        return float(self.row["want"]["main"])

    @property
    def earned(self) -> float:
        return self.reward.parts[TASKS[self.row["task"]].main_part]

    @property
    def is_right(self) -> bool:
        parts = self.row["want"]
        same_format = "format" not in parts or self.reward.parts["format"] == parts["format"]
        return abs(self.earned - self.wanted) <= CLOSE and same_format


def score_cases(path: Path, task: str | None = None) -> list[Case]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    numbered = enumerate(rows)
    return [Case(number, row, score_row(row)) for number, row in numbered if task in (None, row["task"])]


def score_row(row: dict[str, Any]) -> Reward:
    meta = {key: value for key, value in row.items() if key not in COLUMNS}
    sample = Sample("row", row["task"], ("picture.png",), row.get("question", ""), row["answer"], meta)
    width, height = row.get("width", 1), row.get("height", 1)
    size = (row.get("model_width", width), row.get("model_height", height))
    view = ImageView(width, height, *size, row.get("frame", "grid_1000"))
    return score_completion(TASKS[row["task"]], sample, row["completion"], [view])


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return score_cases(shared_file(NAME))


def test_no_wrong_answer_is_rewarded(cases: list[Case]) -> None:
    assert [case.row for case in cases if case.earned > case.wanted + CLOSE] == []


@pytest.mark.parametrize("task", TASKS)
def test_nearly_every_answer_earns_what_it_should(cases: list[Case], task: str) -> None:
    of_task = [case for case in cases if case.row["task"] == task]
    wrong = [case.row for case in of_task if not case.is_right]
    assert len(wrong) <= (1 - LEAST_RIGHT) * len(of_task), wrong


if __name__ == "__main__":
    everything = score_cases(SHARED_DATA / NAME, *sys.argv[1:2])
    for case in everything:
        if not case.is_right:
            row = case.row
            answer = row["completion"].removeprefix("<think>t</think><answer>").removesuffix("</answer>")
            mark = "PAID" if case.earned > case.wanted else "lost"
            print(mark, case.number, row["task"], repr(answer), "|", repr(row["answer"]), case.earned, row["class"][:3])
    print(sum(case.is_right for case in everything), "of", len(everything))
