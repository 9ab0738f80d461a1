"""EM-style policy gradient, after arXiv 2504.18587: imitates its own completions, each with a weight from the rewards.

    centred    loss = mean over the completions of all groups of  -(r_i - mean(r)) S_i
    posterior  loss = mean over the groups with a reward above 0 of  -sum_i q_i S_i,   q_i = r_i / sum_j r_j

No ratio and no clip: samples are reused as they are. The paper's own weights, baseline and normalisation could
not be verified; these are two candidates, ``posterior`` being textbook EM, which takes no negative reward.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from gpg_vl.config import Reduction
from gpg_vl.objectives.base import Term, centre, totals_of
from gpg_vl.objectives.sequence import SequenceObjective, sequence_sums
from gpg_vl.objectives.valid_groups import has_signal
from gpg_vl.records import LogProbs, ScoredGroup


class EmPg(SequenceObjective):
    keys: ClassVar[frozenset[str]] = frozenset({"form"})
    defaults: ClassVar[Mapping[str, Any]] = {"form": "centred", "beta_th": 0.0}
    forms: ClassVar[tuple[str, ...]] = ("centred", "posterior")

    @property
    def reduction(self) -> Reduction:
        return "sequence_sum" if self.config.form == "centred" else "group_sum"

    @property
    def counts_silent(self) -> bool:
        return self.config.form == "centred"

    @property
    def reward_range(self) -> tuple[float, float] | None:
        return None if self.config.form == "centred" else (0.0, math.inf)

    def trains(self, group: ScoredGroup) -> bool:
        return has_signal(group) if self.config.form == "centred" else max(totals_of(group)) > 0

    def advantages(self, group: ScoredGroup) -> list[float]:
        rewards = totals_of(group)
        if self.config.form == "centred":
            return centre(rewards)
        counted = [max(reward, 0.0) for reward in rewards]  # one that is negative by rounding is 0
        return [reward / sum(counted) for reward in counted] if sum(counted) > 0 else counted

    def sequence_terms(self, group: ScoredGroup, log_probs: LogProbs) -> list[Term]:
        pairs = zip(self.advantages(group), sequence_sums(log_probs.current), strict=True)
        return [(-weight * s, -weight) for weight, s in pairs]
