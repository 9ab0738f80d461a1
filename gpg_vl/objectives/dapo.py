"""DAPO (arXiv 2503.14476): a higher clip, one mean over the tokens of a full batch of groups with signal.

    A_i   = (r'_i - mean(r')) / (std(r') + f_norm_eps)
    loss  = mean over the tokens of all kept groups of  -min(w A_i, clip(w, 1 - clip_low, 1 + clip_high) A_i)

Dynamic sampling goes by accuracy, the task's main part: groups in which it is the same for all completions leave the
batch, and the step draws again until ``prompts_per_step`` are kept; the surplus is cut. Where reward functions count
too, or the main part has no weight, it goes by the reward before shaping.

Overlong shaping, with L = max_length and C = overlong_cache > 0: r' = r, from L - C tokens on falling linearly to r - 1
at L. ``mask_unfinished`` leaves completions that the limit cut off out of loss and denominator. Sources: verl,
docs/algo/dapo.md and reward_manager/dapo.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from gpg_vl.objectives.base import Term, given, normalised
from gpg_vl.objectives.ratio import RatioObjective
from gpg_vl.objectives.valid_groups import has_mixed_answers
from gpg_vl.records import LogProbs, ScoredGroup


class Dapo(RatioObjective):
    keys: ClassVar[frozenset[str]] = frozenset(
        {"f_norm_eps", "clip_low", "clip_high", "max_length", "overlong_cache", "mask_unfinished"}
    )
    defaults: ClassVar[Mapping[str, Any]] = {
        "reduction": "token",
        "clip_high": 0.28,
        "overlong_cache": 0,
        "mask_unfinished": False,
        "beta_th": 1.0,
        "max_draws": 10,
    }
    cuts_surplus: ClassVar[bool] = True

    @property
    def counts_silent(self) -> bool:
        return False

    def trains(self, group: ScoredGroup) -> bool:
        return has_mixed_answers(group) and self.num_trained(group)[0] > 0

    def advantages(self, group: ScoredGroup) -> list[float]:
        shaped = [
            reward.total + self._length_penalty(len(completion.token_ids))
            for reward, completion in zip(group.rewards, group.completions, strict=True)
        ]
        if not has_mixed_answers(group) or max(shaped) == min(shaped):
            return [0.0] * len(shaped)
        return normalised(shaped, self.config)

    def token_terms(self, group: ScoredGroup, log_probs: LogProbs) -> list[list[Term]]:
        terms = super().token_terms(group, log_probs)
        return [row if self._is_counted(number, group) else [(0.0, 0.0)] * len(row) for number, row in enumerate(terms)]

    def num_trained(self, group: ScoredGroup) -> tuple[int, int]:
        lengths = [len(c.token_ids) for n, c in enumerate(group.completions) if self._is_counted(n, group)]
        return len(lengths), sum(lengths)

    def _is_counted(self, number: int, group: ScoredGroup) -> bool:
        return group.completions[number].finished or not self.config.mask_unfinished

    def _length_penalty(self, length: int) -> float:
        cache, limit = self.config.overlong_cache, self.config.max_length
        if not cache:
            return 0.0
        return max(-1.0, min(0.0, (given(limit) - cache - length) / cache))
