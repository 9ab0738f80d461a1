"""RLOO (arXiv 2402.14740): REINFORCE with the mean of the other completions as baseline.

    A_i   = r'_i - mean of the others' r'                          r' = r - kl_coefficient * (S_i_old - S_i_ref)
    loss  = mean over the completions of all groups of  -min(W_i A_i, clip(W_i, 1 - clip_low, 1 + clip_high) A_i)

S_i is the log-prob of the completion, W_i = exp(S_i - S_i_old). Where a rollout is followed by one update, W_i is 1 and
the loss is -A_i S_i, with the same gradient. Source: TRL, rloo_trainer.py, whose kl_coefficient is 0.05.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from gpg_vl.objectives.base import Need, Term, centre, given, totals_of
from gpg_vl.objectives.ratio import clipped_ratio
from gpg_vl.objectives.sequence import SequenceObjective, sequence_sums
from gpg_vl.objectives.valid_groups import has_signal
from gpg_vl.records import LogProbs, ScoredGroup


class Rloo(SequenceObjective):
    keys: ClassVar[frozenset[str]] = frozenset({"clip_low", "clip_high", "kl_coefficient"})
    defaults: ClassVar[Mapping[str, Any]] = {
        "reduction": "sequence_sum",
        "clip_low": 0.2,
        "clip_high": 0.2,
        "beta_th": 0.0,
    }

    @property
    def needs(self) -> frozenset[Need]:
        return self.needs_of_kl | ({"old"} if self.is_reused else frozenset())

    def trains(self, group: ScoredGroup) -> bool:
        """With KL in the reward, completions of equal reward differ too."""
        return self.config.kl_coefficient > 0 or has_signal(group)

    def advantages(self, group: ScoredGroup) -> list[float]:
        return _leave_one_out(totals_of(group))

    def sequence_terms(self, group: ScoredGroup, log_probs: LogProbs) -> list[Term]:
        advantages = _leave_one_out(self.shaped_rewards(group, log_probs))
        if not self.is_reused:
            pairs = zip(sequence_sums(log_probs.current), advantages, strict=True)
            return [(-advantage * now, -advantage) for now, advantage in pairs]
        sums = zip(sequence_sums(log_probs.current), sequence_sums(log_probs.old), strict=True)
        return [
            clipped_ratio(now - old, advantage, given(self.config.clip_low), given(self.config.clip_high))
            for (now, old), advantage in zip(sums, advantages, strict=True)
        ]


def _leave_one_out(rewards: list[float]) -> list[float]:
    factor = len(rewards) / (len(rewards) - 1)
    return [factor * each for each in centre(rewards)]
