"""What every rollout engine does: prompts in, groups of completions out."""

from __future__ import annotations

from collections.abc import Sequence
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
    """All that training and evaluation know of what generates; ``HfEngine.generate`` explains the arguments."""

    def generate(
        self,
        prompts: Sequence[Prompt],
        group_size: int,
        sampling: Sampling,
        seeds: Sequence[tuple[object, ...]],
        keep_log_probs: bool = False,
    ) -> list[RolloutGroup]: ...
