"""CISPO (MiniMax-M1, arXiv 2506.13585): the ratio weighs the log-prob, with an upper bound; it never stops a gradient.

    loss  = mean over the tokens of all groups of  -min(w, max_ratio) A_i log p,   w and its cut without gradient

A_i as in GRPO. Source: TRL, loss_type "cispo", with the max_ratio of ScaleRL.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from gpg_vl.objectives.base import Term, given
from gpg_vl.objectives.ratio import RatioObjective, exp


class Cispo(RatioObjective):
    keys: ClassVar[frozenset[str]] = frozenset({"f_norm", "f_norm_eps", "max_ratio"})
    defaults: ClassVar[Mapping[str, Any]] = {"reduction": "token", "max_ratio": 5.0}

    def term(self, now: float, before: float, advantage: float) -> Term:
        slope = -min(exp(now - before), given(self.config.max_ratio)) * advantage
        return slope * now, slope
