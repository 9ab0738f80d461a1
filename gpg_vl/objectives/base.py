"""What every objective has: which groups it trains, the coefficient of each token, and the step's denominator.

The loss of a step is ``sum over tokens of coefficient * log-prob / denominator``; the division is update.py's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from gpg_vl.config import ObjectiveConfig
from gpg_vl.records import Completion, ScoredGroup, TrainingGroup


@dataclass(frozen=True, slots=True)
class StepTotals:
    """Counts of one optimizer step over all ranks and draws."""

    groups: int  # B, sampled
    tokens: int  # completion tokens of the B groups
    trained_groups: int  # V, those with signal
    trained_sequences: int
    trained_tokens: int

    @property
    def alpha(self) -> float:
        """B / V (paper, Eq. 7); 0 where no group is trained."""
        return self.groups / self.trained_groups if self.trained_groups else 0.0


def count_tokens(completions: Sequence[Completion]) -> int:
    return sum(len(completion.token_ids) for completion in completions)


class Objective(ABC):
    """An objective whose coefficients come from the rewards alone."""

    imitates_gold: ClassVar[bool] = False
    """Whether the completions are the rows' gold answers instead of samples."""
    min_group_size: ClassVar[int] = 1

    def __init__(self, config: ObjectiveConfig):
        self.config = config

    @abstractmethod
    def trains(self, group: ScoredGroup) -> bool:
        """Whether the group has anything to learn from. V, refill and the update go by it."""

    @abstractmethod
    def advantages(self, group: ScoredGroup) -> list[float]:
        """One number per completion, [G]; a positive one makes the completion likelier."""

    def training_group(self, group: ScoredGroup) -> TrainingGroup:
        """The group with ``-advantage * weight`` on every token; the weight is the reduction's."""
        group_tokens = count_tokens(group.completions)
        coefficients = []
        for completion, advantage in zip(group.completions, self.advantages(group), strict=True):
            length = len(completion.token_ids)
            weight = _token_weight(self.config.reduction, length, group_tokens)
            coefficients.append((-advantage * weight,) * length)
        return TrainingGroup(group.prompt, group.completions, tuple(coefficients), group.image_features)

    def denominator(self, totals: StepTotals, prompts_per_step: int) -> float:
        """What the sum over all tokens of the step is divided by.

        With ``alpha`` it makes the mean over the V trained groups; without, that mean times V / prompts_per_step.
        """
        alpha = totals.alpha
        units = {
            "group": totals.trained_groups,
            "sequence": totals.trained_sequences,
            "token": totals.trained_tokens,
            "token_official": totals.tokens / alpha,
        }[self.config.reduction]
        if not self.config.alpha:
            return units * prompts_per_step / totals.trained_groups
        return units * (1 + self.config.alpha_eps * alpha)


def _token_weight(reduction: Literal["group", "sequence", "token", "token_official"], length: int, group: int) -> float:
    """Weight of a token of a completion with ``length`` tokens in a group with ``group`` tokens."""
    if reduction == "group":
        return 1 / group
    return 1 / length if reduction == "sequence" else 1.0
