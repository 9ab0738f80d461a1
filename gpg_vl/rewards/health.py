"""Watches the rewards of a run: what failed in a step, and which part has never changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gpg_vl.records import LoggedGroup, ScoredGroup

_SAID_AFTER = (10, 100, 1000)
"""Steps after which the parts that have been constant so far are named, each once."""


@dataclass(slots=True)
class _Spread:
    low: float
    high: float
    num_completions: int = 0


class RewardWatch:
    """Sees the groups of every step, of all ranks."""

    def __init__(self) -> None:
        self._ranges: dict[str, _Spread] = {}
        self._num_steps = 0
        self._said: set[str] = set()

    def notes(self, groups: Sequence[LoggedGroup]) -> Iterator[str]:
        """A line about what failed in this step; after 10, 100 and 1,000 steps one for each part that is constant."""
        if failures := describe_failures(groups):
            yield failures
        self._num_steps += 1
        for group in groups:
            if len(group.rewards) > 1:  # a single one, such as the gold completion, cannot vary
                self._widen(group)
        if self._num_steps in _SAID_AFTER:
            yield from self._constant_parts()

    def _widen(self, group: LoggedGroup) -> None:
        for reward in group.rewards:
            for name, value in reward.parts.items():
                seen = self._ranges.setdefault(name, _Spread(value, value))
                seen.low, seen.high = min(seen.low, value), max(seen.high, value)
                seen.num_completions += 1

    def _constant_parts(self) -> Iterator[str]:
        for name, seen in sorted(self._ranges.items()):
            if seen.low == seen.high and name not in self._said:
                self._said.add(name)
                yield (
                    f"note: the reward part {name} has been {seen.low:g} for all {seen.num_completions} completions of "
                    f"{self._num_steps} steps; it has had no effect so far; look into what it scores, or give it "
                    f"no weight (rewards.weights.{name}: 0)"
                )


def describe_failures(groups: Sequence[LoggedGroup] | Sequence[ScoredGroup]) -> str | None:
    """``scoring failed for 12 of 320 completions: RuntimeError: boom (rew.py:10)``, or None where none failed.

    The cause is the most frequent one.
    """
    rewards = [reward for group in groups for reward in group.rewards]
    failed = [reward.message for reward in rewards if reward.has_failed]
    if not failed:
        return None
    [(cause, _)] = Counter(failed).most_common(1)
    return f"scoring failed for {len(failed)} of {len(rewards)} completions: {cause}"
