"""REBEL (arXiv 2404.16767): regresses the difference of log-ratios on the difference of rewards.

    code   loss = mean over all groups of the mean over pairs of  ((d_i - d_j) - eta (r_i - r_j))^2
    paper  the same / eta^2
    d_i    = S_i - S_i under the anchor,   r = reward - kl_coefficient * (S_i_old - S_i_ref)

The published scripts sample two completions a prompt, take the policy that sampled as anchor and have a kl_coefficient
of 0.05. Source: ZhaolinGao/REBEL, src/tldr/rebel.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from gpg_vl.objectives.base import Need, Term, given
from gpg_vl.objectives.sequence import AnchoredObjective, add_up_pairs
from gpg_vl.records import LogProbs, ScoredGroup


class Rebel(AnchoredObjective):
    keys: ClassVar[frozenset[str]] = frozenset({"form", "eta", "pairs", "anchor", "kl_coefficient"})
    defaults: ClassVar[Mapping[str, Any]] = {
        "form": "code",
        "reduction": "group_sum",
        "eta": 1.0,
        "pairs": "all",
        "anchor": "old",
        "beta_th": 0.0,
    }
    forms: ClassVar[tuple[str, ...]] = ("code", "paper")

    @property
    def needs(self) -> frozenset[Need]:
        return super().needs | self.needs_of_kl

    def sequence_terms(self, group: ScoredGroup, log_probs: LogProbs) -> list[Term]:
        rewards, shifts, eta = self.shaped_rewards(group, log_probs), self.shifts(log_probs), given(self.config.eta)
        scale = 1.0 if self.config.form == "code" else eta**-2

        def term(i: int, j: int) -> Term:
            error = shifts[i] - shifts[j] - eta * (rewards[i] - rewards[j])
            return scale * error**2, scale * 2 * error

        return add_up_pairs(len(rewards), [((i, j), term(i, j)) for i, j in self.pairs(rewards)])
