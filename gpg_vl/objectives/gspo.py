"""GSPO (Group Sequence Policy Optimization, arXiv 2507.18071): one clipped ratio for each completion.

    s_i   = exp(mean over the completion's tokens of l - l_old)
    loss  = mean over the completions of all groups of  -min(s_i A_i, clip(s_i, 1 - clip_low, 1 + clip_high) A_i)

A_i as in GRPO. Source: TRL, importance_sampling_level "sequence".
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any, ClassVar

from gpg_vl.objectives.base import Term
from gpg_vl.objectives.ratio import RatioObjective
from gpg_vl.records import LogProbs, ScoredGroup


class Gspo(RatioObjective):
    keys: ClassVar[frozenset[str]] = frozenset({"f_norm", "f_norm_eps", "clip_low", "clip_high"})
    defaults: ClassVar[Mapping[str, Any]] = {"clip_low": 3e-4, "clip_high": 4e-4}

    def token_terms(self, group: ScoredGroup, log_probs: LogProbs) -> list[list[Term]]:
        """The completion's term on each of its tokens: the weight of ``reduction: sequence`` makes it one again."""
        rows = zip(log_probs.current, log_probs.old, self.advantages(group), strict=True)
        return [[self.term(fmean(now), fmean(old), advantage)] * len(now) for now, old, advantage in rows]
