"""Reinforce-Rej (arXiv 2504.11343): the reward itself, without a baseline, on groups whose rewards differ.

    code   loss = mean over the tokens of all groups of          -min(w R_i, clip(w) R_i)
    paper  loss = mean over the completions of kept groups of
                  mean over the completion's tokens of           -min(w R_i, clip(w) R_i)                   Eq. 5

R_i is the reward scaled from ``reward_range`` to [-1, 1]: with rewards of 0 and 1 as they stand, wrong answers would
count nothing, as they do in the released code. Groups whose rewards are all equal are left out. In ``code``, where
R_i < 0, w counts ``max_ratio`` at most (dual clip); Eq. 5 has no such bound. Sources: RLHFlow/Minimal-RL,
core_algos.py; the paper's equation from another source.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from gpg_vl.config import Reduction
from gpg_vl.objectives.base import Term, given, totals_of
from gpg_vl.objectives.ratio import RatioObjective, exp
from gpg_vl.objectives.valid_groups import has_signal
from gpg_vl.records import ScoredGroup


class ReinforceRej(RatioObjective):
    keys: ClassVar[frozenset[str]] = frozenset({"form", "reward_range", "clip_low", "clip_high", "max_ratio"})
    defaults: ClassVar[Mapping[str, Any]] = {"form": "code", "max_ratio": 3.0}
    forms: ClassVar[tuple[str, ...]] = ("code", "paper")

    @property
    def reduction(self) -> Reduction:
        return "token" if self.config.form == "code" else "sequence"

    @property
    def counts_silent(self) -> bool:
        return self.config.form == "code"

    @property
    def reward_range(self) -> tuple[float, float] | None:
        return self.config.reward_range

    @property
    def needs_reward_range(self) -> bool:
        return True

    def advantages(self, group: ScoredGroup) -> list[float]:
        if not has_signal(group):
            return [0.0] * len(group.rewards)
        low, high = given(self.config.reward_range)
        return [2 * (reward - low) / (high - low) - 1 for reward in totals_of(group)]

    def term(self, now: float, before: float, advantage: float) -> Term:
        max_ratio = given(self.config.max_ratio)
        if self.config.form == "code" and advantage < 0 and exp(now - before) > max_ratio:
            return -max_ratio * advantage, 0.0
        return super().term(now, before, advantage)
