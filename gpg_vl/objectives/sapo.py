"""SAPO (Soft Adaptive Policy Optimization, arXiv 2511.20347): a smooth gate on the ratio instead of a clip.

    gate  = 4 / tau * sigmoid(tau (w - 1))           tau: gate_temperatures, of positive and of other advantages
    loss  = mean over the completions of all groups of  mean over the completion's tokens of  -gate(w) A_i

The derivative of the gate by l is 4 w sigmoid (1 - sigmoid), 1 at w = 1. A_i as in GRPO. Source: TRL, loss_type
"sapo".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from gpg_vl.objectives.base import Term, given
from gpg_vl.objectives.ratio import RatioObjective, exp


class Sapo(RatioObjective):
    keys: ClassVar[frozenset[str]] = frozenset({"f_norm", "f_norm_eps", "gate_temperatures"})
    defaults: ClassVar[Mapping[str, Any]] = {"gate_temperatures": (1.0, 1.05)}

    def term(self, now: float, before: float, advantage: float) -> Term:
        tau = given(self.config.gate_temperatures)[0 if advantage > 0 else 1]
        ratio = min(exp(now - before), 1e6)  # beyond, the gate is flat
        opening = 1 / (1 + exp(-tau * (ratio - 1)))
        return -4 / tau * opening * advantage, -4 * ratio * opening * (1 - opening) * advantage
