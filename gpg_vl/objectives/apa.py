"""APA (Advantage-Induced Policy Alignment, arXiv 2306.02231): regresses the log-ratio itself on the advantage.

    sequence  loss = mean over the completions of all groups of  (d_i - A_i / beta)^2
    token     loss = mean over the tokens of all groups of       (l - l_ref - A_i / beta)^2
    d_i       = S_i - S_i under the initial policy,  A_i = r_i - mean(r)

``token`` is the published loss (microsoft/RLHF-APA; beta is its lambda), with the group's mean for a value model. It
adds the target once for each token, so the target of a completion grows with its length. ``sequence`` is this kit's
form, where it does not grow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from gpg_vl.config import Reduction
from gpg_vl.objectives.base import Term, given
from gpg_vl.objectives.sequence import AnchoredObjective
from gpg_vl.records import LogProbs, ScoredGroup


class Apa(AnchoredObjective):
    keys: ClassVar[frozenset[str]] = frozenset({"form", "beta"})
    defaults: ClassVar[Mapping[str, Any]] = {"form": "sequence", "beta": 0.1, "anchor": "reference", "beta_th": 0.0}
    forms: ClassVar[tuple[str, ...]] = ("sequence", "token")

    @property
    def reduction(self) -> Reduction:
        return "token" if self.config.form == "token" else "sequence_sum"

    def token_terms(self, group: ScoredGroup, log_probs: LogProbs) -> list[list[Term]]:
        if self.config.form == "sequence":
            return super().token_terms(group, log_probs)
        rows = zip(log_probs.current, log_probs.reference, self.advantages(group), strict=True)
        return [
            [self._term(now - ref, advantage) for now, ref in zip(current, reference, strict=True)]
            for current, reference, advantage in rows
        ]

    def sequence_terms(self, group: ScoredGroup, log_probs: LogProbs) -> list[Term]:
        return [self._term(*pair) for pair in zip(self.shifts(log_probs), self.advantages(group), strict=True)]

    def _term(self, shift: float, advantage: float) -> Term:
        error = shift - advantage / given(self.config.beta)
        return error**2, 2 * error
