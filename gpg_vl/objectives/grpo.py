"""GRPO (arXiv 2402.03300), for comparison with GPG; the form of the published multimodal code.

    A_i   = (r_i - mean(r)) / (std(r) + f_norm_eps)             0 in a group whose rewards are all equal
    loss  = mean over the completions of all groups of
            mean over the completion's tokens of -w A_i + kl_coefficient * k3
    k3    = exp(l_ref - l) - (l_ref - l) - 1                    l, l_ref: the token's log-prob now and under the
                                                                frozen initial policy

A rollout is followed by one update, so the ratio w of new and old policy is 1, its gradient is that of l, and no clip
ever acts. Then the derivative by l is -A_i + kl_coefficient * (1 - exp(l_ref - l)), a plain number for each token.
"""

from __future__ import annotations

import math
from typing import ClassVar

from gpg_vl.config import ObjectiveConfig
from gpg_vl.objectives.base import Need, Objective, centred_rewards
from gpg_vl.objectives.valid_groups import has_signal
from gpg_vl.records import LogProbs, ScoredGroup


class Grpo(Objective):
    keys: ClassVar[frozenset[str]] = frozenset({"f_norm", "f_norm_eps", "alpha", "kl_coefficient", "reduction"})
    min_group_size: ClassVar[int] = 2

    def __init__(self, config: ObjectiveConfig):
        super().__init__(config)
        if config.alpha:
            raise ValueError(
                "objective.alpha: GRPO averages over all groups; set alpha: false, and for GRPO as published also "
                "f_norm: std, f_norm_eps: 1.0e-4, reduction: sequence, kl_coefficient: 0.04, beta_th: 0"
            )

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"reference"} if self.config.kl_coefficient > 0 else ())

    def trains(self, group: ScoredGroup) -> bool:
        """With KL every group is trained: where all rewards are equal, the KL still pulls to the reference."""
        return bool(self.needs) or has_signal(group)

    def advantages(self, group: ScoredGroup) -> list[float]:
        return centred_rewards(group, self.config)

    def token_gradients(self, group: ScoredGroup, log_probs: LogProbs | None) -> list[list[float]]:
        gradients = super().token_gradients(group, log_probs)
        if not self.needs:
            return gradients
        assert log_probs is not None
        pulls = [
            [self.config.kl_coefficient * -math.expm1(ref - now) for now, ref in zip(current, reference, strict=True)]
            for current, reference in zip(log_probs.current, log_probs.reference, strict=True)
        ]
        return [[g + pull for g, pull in zip(*pair, strict=True)] for pair in zip(gradients, pulls, strict=True)]
