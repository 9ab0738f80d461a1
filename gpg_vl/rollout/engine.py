"""What every rollout engine does: prompts in, groups of completions out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

from gpg_vl.records import Prompt, RolloutGroup


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen; at temperature 0, always the most likely one."""

    max_new_tokens: int
    temperature: float
    top_p: float = 1.0
    top_k: int = 0


Tell = Callable[[RolloutGroup], None]


def nobody(group: RolloutGroup) -> None:
    """Is told where nobody waits for a group."""


class RolloutEngine(Protocol):
    """All that evaluation, and training without ``rollout.ahead``, know about an engine."""

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


@runtime_checkable
class TellingEngine(RolloutEngine, Protocol):
    """An engine that tells of a group while others are sampled: its scoring begins then."""

    tells_early: ClassVar[Literal[True]]

    def generate(
        self,
        prompts: Sequence[Prompt],
        group_size: int,
        sampling: Sampling,
        seeds: Sequence[tuple[object, ...]],
        keep_log_probs: bool = False,
        tell: Tell = nobody,
    ) -> list[RolloutGroup]:
        """As ``RolloutEngine.generate``.

        Args:
            tell: is told of complete groups in the order of ``prompts``; what it raises ends the rollout. What is
                returned counts: a group that is told of and not returned is scored in vain
        """


class AheadEngine(RolloutEngine, Protocol):
    """An engine that also samples while the policy is trained (``rollout.ahead``); one draw at a time."""

    def begin(
        self,
        prompts: Sequence[Prompt],
        group_size: int,
        sampling: Sampling,
        seeds: Sequence[tuple[object, ...]],
        keep_log_probs: bool = False,
    ) -> None:
        """As ``generate``, but without waiting. It is done, or has failed, before ``sync_weights`` is entered again."""

    def wait(self) -> bool:
        """Until what was begun is done; whether all of it was answered. May be called on one rank alone.

        Raises:
            ValueError: a prompt was refused
        """

    def take(self) -> list[RolloutGroup]:
        """What was begun, all of which was answered."""

    def drop(self) -> None:
        """Ends what was begun, and forgets it; nothing where nothing was."""
