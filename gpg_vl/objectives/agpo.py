"""AGPO (arXiv 2503.15952), two of its three versions: GRPO that knows groups whose rewards are all equal.

    v1  A_i = 1 if the group's mean is the highest possible reward, -1 if it is the lowest, otherwise as in GRPO;
        so groups of only right or only wrong answers are trained, where nothing else earns a reward: a wrong answer
        that is paid for its format is above the lowest; mean over all groups
    v3  groups whose rewards are all equal leave the denominator: GRPO times B / V, as GPG's alpha

Both are taken from secondary sources. v1's reward of length, v2 and v3's clip of the loss could not be verified and are
not built.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any, ClassVar

from gpg_vl.objectives.base import centred_rewards, given, totals_of
from gpg_vl.objectives.ratio import RatioObjective
from gpg_vl.objectives.valid_groups import has_signal
from gpg_vl.records import ScoredGroup


class Agpo(RatioObjective):
    keys: ClassVar[frozenset[str]] = frozenset(
        {"form", "f_norm_eps", "reduction", "clip_low", "clip_high", "reward_range"}
    )
    defaults: ClassVar[Mapping[str, Any]] = {"form": "v3"}
    forms: ClassVar[tuple[str, ...]] = ("v1", "v3")

    @property
    def counts_silent(self) -> bool:
        return self.config.form == "v1"

    @property
    def reward_range(self) -> tuple[float, float] | None:
        return self.config.reward_range if self.config.form == "v1" else None

    @property
    def needs_reward_range(self) -> bool:
        return self.config.form == "v1"

    def trains(self, group: ScoredGroup) -> bool:
        return any(self.advantages(group))

    def advantages(self, group: ScoredGroup) -> list[float]:
        if has_signal(group) or self.config.form == "v3":
            return centred_rewards(group, self.config)
        low, high = given(self.config.reward_range)
        mean = fmean(totals_of(group))
        sign = float(mean > high - 1e-5) - float(mean < low + 1e-5)
        return [sign] * len(group.rewards)
