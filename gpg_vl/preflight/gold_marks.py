"""Refuses rows whose gold answer does not earn full marks in its own task: no completion could."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpg_vl.records import AnswerIn, ImageView, Sample
from gpg_vl.tasks import TASKS
from gpg_vl.tasks.base import Task
from gpg_vl.tasks.marks import find_lost_marks


@dataclass(frozen=True, slots=True)
class GoldMarks:
    """Scores the gold answers of rows whose task is the kit's own; the user's code is tried with its limits instead."""

    tasks: Mapping[str, Task]
    answer_in: AnswerIn
    with_reasoning: bool  # whether the gold completion is trained

    def check(self, sample: Sample, views: Sequence[ImageView]) -> None:
        """Raises ``ValueError`` if the gold answer earns less than full marks; says why."""
        if sample.task in TASKS:
            lost = find_lost_marks(self.tasks[sample.task], sample, views, self.answer_in, self.with_reasoning)
            if lost is not None:
                raise ValueError(f"{lost}; correct the row")
