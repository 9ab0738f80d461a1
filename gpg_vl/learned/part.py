"""What every learned part of the reward is to the collector that adds it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from accelerate import Accelerator

from gpg_vl.processes.ranks import run_together
from gpg_vl.processes.whole_weights import whole_weights
from gpg_vl.records import ScoredGroup


class LearnedPart(ABC):
    """One part. All ranks call it together, each with its own groups."""

    name: str
    is_in_total: bool
    """Whether it counts in the reward that advantages are made of; else it is only logged."""

    def __init__(self, accelerator: Accelerator):
        self._accelerator = accelerator

    def measure(self, groups: Sequence[ScoredGroup]) -> list[list[float]]:
        """In [0, 1], [G] by group."""
        with whole_weights(self._accelerator):
            return run_together(lambda: self._measure(groups))

    @abstractmethod
    def _measure(self, groups: Sequence[ScoredGroup]) -> list[list[float]]:
        """``measure`` of this rank's groups, of which there may be none."""
