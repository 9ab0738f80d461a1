"""CoPG (Contrastive Policy Gradient, arXiv 2406.19185): each of two completions is the other's baseline.

    loss  = mean over all groups of the mean over pairs of  -(R_i - R_j) (d_i - d_j)
    R_i   = r_i - beta / 2 * d_i,   d_i = S_i - S_i under the initial policy                                 Eq. 7-19

Its derivative by d_i - d_j is -((r_i - beta d_i) - (r_j - beta d_j)). It is right for completions of any policy. The
paper has pairs of two, and beta 0.06 as its best; ``all`` pairs of a larger group is the natural extension.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from gpg_vl.objectives.base import Term, given, totals_of
from gpg_vl.objectives.sequence import AnchoredObjective, add_up_pairs
from gpg_vl.records import LogProbs, ScoredGroup


class Copg(AnchoredObjective):
    keys: ClassVar[frozenset[str]] = frozenset({"beta", "pairs"})
    defaults: ClassVar[Mapping[str, Any]] = {
        "reduction": "group_sum",
        "beta": 0.06,
        "pairs": "all",
        "anchor": "reference",
        "beta_th": 0.0,
    }

    def sequence_terms(self, group: ScoredGroup, log_probs: LogProbs) -> list[Term]:
        rewards, shifts, beta = totals_of(group), self.shifts(log_probs), given(self.config.beta)

        def term(i: int, j: int) -> Term:
            reward, shift = rewards[i] - rewards[j], shifts[i] - shifts[j]
            return -(reward - beta / 2 * shift) * shift, beta * shift - reward

        return add_up_pairs(len(rewards), [((i, j), term(i, j)) for i, j in self.pairs(rewards)])
