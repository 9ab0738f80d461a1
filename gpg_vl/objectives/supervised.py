"""Supervised fine-tuning on the task's gold completion: the same update with advantage 1 on each."""

from __future__ import annotations

from typing import ClassVar

from gpg_vl.objectives.base import Objective
from gpg_vl.records import ScoredGroup


class Supervised(Objective):
    keys: ClassVar[frozenset[str]] = frozenset({"reduction"})
    imitates_gold: ClassVar[bool] = True

    def trains(self, group: ScoredGroup) -> bool:
        return True

    def advantages(self, group: ScoredGroup) -> list[float]:
        return [1.0] * len(group.completions)
