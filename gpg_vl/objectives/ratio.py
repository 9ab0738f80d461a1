"""What GRPO and its relatives share: a clipped ratio of new and old policy on each token, times the advantage.

    w     = exp(l - l_old)
    loss  = -min(w A, clip(w, 1 - clip_low, 1 + clip_high) A)
    dloss/dl = -w A, or 0 where the clip acts: A > 0 and w > 1 + clip_high, or A < 0 and w < 1 - clip_low

In the first update of a rollout w is 1 and the derivative is -A.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from gpg_vl.objectives.base import Need, Objective, Term, centred_rewards, given
from gpg_vl.objectives.valid_groups import has_signal
from gpg_vl.records import LogProbs, ScoredGroup


def exp(x: float) -> float:
    """``math.exp``, infinity instead of an error: an update with a gradient that is not finite is skipped."""
    return math.exp(x) if x < 709 else math.inf


def clipped_ratio(log_ratio: float, advantage: float, low: float, high: float) -> Term:
    """-min(w A, clip(w, 1 - low, 1 + high) A), and its derivative by log w."""
    ratio = exp(log_ratio)
    if advantage > 0 and ratio > 1 + high:
        return -(1 + high) * advantage, 0.0
    if advantage < 0 and ratio < 1 - low:
        return -(1 - low) * advantage, 0.0
    loss = -ratio * advantage if advantage else 0.0
    return loss, loss


class RatioObjective(Objective):
    """Each token's term is a function of its log-ratio and of the completion's advantage."""

    defaults: ClassVar[Mapping[str, Any]] = {
        "f_norm": "std",
        "f_norm_eps": 1e-4,
        "reduction": "sequence",
        "clip_low": 0.2,
        "clip_high": 0.2,
        "beta_th": 0.0,
    }
    min_group_size: ClassVar[int] = 2
    allows_reuse: ClassVar[bool] = True

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"old"} if self.is_reused else ())

    @property
    def counts_silent(self) -> bool:
        return True

    def trains(self, group: ScoredGroup) -> bool:
        return has_signal(group)

    def advantages(self, group: ScoredGroup) -> list[float]:
        return centred_rewards(group, self.config)

    def token_terms(self, group: ScoredGroup, log_probs: LogProbs) -> list[list[Term]]:
        rows = zip(log_probs.current, log_probs.old, self.advantages(group), strict=True)
        return [
            [self.term(now, before, advantage) for now, before in zip(current, old, strict=True)]
            for current, old, advantage in rows
        ]

    def term(self, now: float, before: float, advantage: float) -> Term:
        """A token's loss and its derivative by ``now``."""
        return clipped_ratio(now - before, advantage, given(self.config.clip_low), given(self.config.clip_high))
