"""What every rollout engine does: prompts in, groups of completions out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from gpg_vl.records import Prompt, RolloutGroup


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen; at temperature 0, always the most likely one."""

    max_new_tokens: int
    temperature: float
    top_p: float = 1.0
    top_k: int = 0


class RolloutEngine(Protocol):
    """All that training and evaluation know about an engine."""

    def sync_weights(self) -> AbstractContextManager[None]:
        """Within, the engine generates with the policy's present weights; gathering sharded ones is the engine's job.

        All ranks enter and leave it together. ``generate`` runs inside it and may fail or be interrupted on one rank
        alone, so it must never wait for another rank.
        """

    def generate(
        self,
        prompts: Sequence[Prompt],
        group_size: int,
        sampling: Sampling,
        seeds: Sequence[tuple[object, ...]],
        keep_log_probs: bool = False,
    ) -> list[RolloutGroup]:
        """``group_size`` completions per prompt, in the order of ``prompts``.

        Args:
            seeds: one per prompt; together with its index in the group, it determines a completion's noise
            keep_log_probs: keep each token's log-prob under the distribution that it was sampled from
        """
