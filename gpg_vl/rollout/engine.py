"""What every rollout engine does: prompts in, groups of completions out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from gpg_vl.records import Prompt, RolloutGroup


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen; temperature 0 takes the most likely one."""

    max_new_tokens: int
    temperature: float
    top_p: float = 1.0
    top_k: int = 0


class RolloutEngine(Protocol):
    """All that training and evaluation know of what generates."""

    def sync_weights(self) -> AbstractContextManager[None]:
        """Within, the engine generates with the policy's weights as they stand; gathering sharded ones is its affair.

        Entered and left by all ranks together, and apart from ``generate``: that one may fail, or be interrupted, on
        one rank alone, and may not wait for another.
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
            seeds: one per prompt; with its index in the group it decides the noise of a completion
            keep_log_probs: keep each token's log-prob under the distribution that it was sampled from
        """
