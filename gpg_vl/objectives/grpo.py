"""GRPO (arXiv 2402.03300).

    A_i   = (r_i - mean(r)) / (std(r) + f_norm_eps)             0 in a group whose rewards are all equal
    loss  = mean over the completions of all groups of
            mean over the completion's tokens of -min(w A_i, clip(w) A_i) + kl_coefficient * k3
    k3    = exp(l_ref - l) - (l_ref - l) - 1                    l, l_ref: the token's log-prob now and under the
                                                                frozen initial policy

With ``alpha`` the mean is over the completions of the groups that are trained. The derivative of k3 by l is
1 - exp(l_ref - l). The GRPO branch of the published GPG code has kl_coefficient 0.04 and one update for each rollout.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from gpg_vl.objectives.base import Need, Term
from gpg_vl.objectives.ratio import RatioObjective
from gpg_vl.objectives.valid_groups import has_signal
from gpg_vl.records import LogProbs, ScoredGroup


class Grpo(RatioObjective):
    keys: ClassVar[frozenset[str]] = frozenset(
        {"f_norm", "f_norm_eps", "alpha", "reduction", "clip_low", "clip_high", "kl_coefficient"}
    )
    defaults: ClassVar[Mapping[str, Any]] = {"alpha": False}

    @property
    def counts_silent(self) -> bool:
        return not self.config.alpha

    @property
    def needs(self) -> frozenset[Need]:
        return super().needs | ({"reference"} if self.config.kl_coefficient > 0 else frozenset())

    def trains(self, group: ScoredGroup) -> bool:
        """With KL every group is trained: where all rewards are equal, the KL still pulls to the reference."""
        return self.config.kl_coefficient > 0 or has_signal(group)

    def token_terms(self, group: ScoredGroup, log_probs: LogProbs) -> list[list[Term]]:
        terms = super().token_terms(group, log_probs)
        if self.config.kl_coefficient == 0:
            return terms
        return [
            [self._with_kl(term, ref - now) for term, now, ref in zip(*row, strict=True)]
            for row in zip(terms, log_probs.current, log_probs.reference, strict=True)
        ]

    def _with_kl(self, term: Term, gap: float) -> Term:
        loss, slope = term
        slope_of_kl = -math.expm1(gap) if gap < 709 else -math.inf
        k3 = -slope_of_kl - gap
        return loss + self.config.kl_coefficient * k3, slope + self.config.kl_coefficient * slope_of_kl
