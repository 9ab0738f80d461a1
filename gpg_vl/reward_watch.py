"""Keeps an eye on the rewards of a run: which part of them has never changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gpg_vl.records import ScoredGroup

_SAID_AFTER = (10, 100, 1000)
"""Steps after which a part that has been constant all the time is named."""


@dataclass(slots=True)
class _Range:
    low: float
    high: float
    num_completions: int = 0


class RewardWatch:
    """Sees the groups of every step, of all ranks."""

    def __init__(self) -> None:
        self._ranges: dict[str, _Range] = {}
        self._num_steps = 0

    def constant_parts(self, groups: Sequence[ScoredGroup]) -> Iterator[str]:
        """A line for each part that has had one value since the first step; after 10, 100 and 1,000 steps.

        Args:
            groups: of this step
        """
        self._num_steps += 1
        for group in groups:
            for reward in group.rewards:
                for name, value in reward.parts.items():
                    self._widen(name, value)
        if self._num_steps not in _SAID_AFTER:
            return
        for name, seen in sorted(self._ranges.items()):
            if seen.low == seen.high and seen.num_completions > 1:
                yield (
                    f"note: the reward part {name} has been {seen.low:g} for all {seen.num_completions} completions of "
                    f"{self._num_steps} steps; it teaches nothing so far"
                )

    def _widen(self, name: str, value: float) -> None:
        seen = self._ranges.setdefault(name, _Range(value, value))
        seen.low, seen.high = min(seen.low, value), max(seen.high, value)
        seen.num_completions += 1
