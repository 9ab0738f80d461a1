"""GVPO (Group Variance Policy Optimization, arXiv 2504.19599): regresses the centred log-ratio on the centred reward.

    loss  = mean over all groups of  1 / (2 (G - 1)) * sum_i (beta d~_i - r~_i)^2
    d_i   = S_i - S_i under the anchor;  x~ = x - mean of the group's x

dloss/dS_i = beta (beta d~_i - r~_i) / (G - 1). S_i is a sum: with longer completions d grows, and beta must be tuned.
Source: jszkc/GVPO, gvpo_core_algos.py, which adds up the groups of a micro-batch without a division.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from gpg_vl.objectives.base import Term, centre, given, totals_of
from gpg_vl.objectives.sequence import AnchoredObjective
from gpg_vl.records import LogProbs, ScoredGroup


class Gvpo(AnchoredObjective):
    keys: ClassVar[frozenset[str]] = frozenset({"beta", "anchor"})
    defaults: ClassVar[Mapping[str, Any]] = {"reduction": "group_sum", "beta": 0.1, "anchor": "old", "beta_th": 0.0}

    def sequence_terms(self, group: ScoredGroup, log_probs: LogProbs) -> list[Term]:
        beta, others = given(self.config.beta), len(group.rewards) - 1
        pairs = zip(centre(self.shifts(log_probs)), centre(totals_of(group)), strict=True)
        errors = [beta * shift - reward for shift, reward in pairs]
        return [(error**2 / 2 / others, beta * error / others) for error in errors]
