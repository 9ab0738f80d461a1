"""RAFT++ (arXiv 2504.11343): RAFT with a clipped ratio, for several updates a rollout.

    code   loss = mean over the tokens of all groups of  -min(w, clip(w)) max(r_i, 0)
    paper  loss = mean over the completions of all groups of
                  mean over the completion's tokens of  -min(w, clip(w)) [r_i is the group's highest]     Eq. 6

In both a completion must have a reward above ``accept_above``: Eq. 6 alone would take all of a group of wrong answers.
Sources: RLHFlow/Minimal-RL, core_algos.py; the paper's equation from a secondary source.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from gpg_vl.config import Reduction
from gpg_vl.objectives.base import given, totals_of
from gpg_vl.objectives.raft import accepted_rewards
from gpg_vl.objectives.ratio import RatioObjective
from gpg_vl.records import ScoredGroup


class RaftPlusPlus(RatioObjective):
    keys: ClassVar[frozenset[str]] = frozenset({"form", "accept_above", "clip_low", "clip_high"})
    defaults: ClassVar[Mapping[str, Any]] = {"form": "code", "accept_above": 0.0}
    forms: ClassVar[tuple[str, ...]] = ("code", "paper")
    min_group_size: ClassVar[int] = 1

    @property
    def reduction(self) -> Reduction:
        return "token" if self.config.form == "code" else "sequence"

    def trains(self, group: ScoredGroup) -> bool:
        return any(self.advantages(group))

    def advantages(self, group: ScoredGroup) -> list[float]:
        accepted = accepted_rewards(group, given(self.config.accept_above))
        if self.config.form == "code":
            return accepted
        pairs = zip(totals_of(group), accepted, strict=True)
        return [float(reward == max(totals_of(group)) and weight > 0) for reward, weight in pairs]
