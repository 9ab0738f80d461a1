"""What every objective has: which groups it trains, the coefficient of each token, and the step's denominator.

The loss of a step is ``sum over tokens of coefficient * log-prob / denominator``; ``update/gradient.py`` divides.
"""

from __future__ import annotations

import statistics
from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from gpg_vl.config import ObjectiveConfig
from gpg_vl.objectives.valid_groups import has_signal
from gpg_vl.records import LogProbs, ScoredGroup, StepTotals, TrainingGroup, count_tokens

Need = Literal["old", "reference"]
"""Log-probs under the weights that sampled, and under the frozen initial policy."""


def centred_rewards(group: ScoredGroup, config: ObjectiveConfig) -> list[float]:
    """(r_i - mean(r)) / F_norm, [G] (paper, Eq. 6); zeros for a group without signal."""
    rewards = [reward.total for reward in group.rewards]
    if not has_signal(group):
        return [0.0] * len(rewards)
    mean = statistics.fmean(rewards)
    norm = statistics.stdev(rewards) + config.f_norm_eps if config.f_norm == "std" else 1.0  # ddof 1
    return [(reward - mean) / norm for reward in rewards]


class Objective(ABC):
    """An objective whose coefficients come from the rewards, and where it asks for them from log-probs."""

    keys: ClassVar[frozenset[str]]
    """The keys of ``ObjectiveConfig`` that it reads, besides name, beta_th and max_draws, which every one has."""
    imitates_gold: ClassVar[bool] = False
    """Whether the completions are the rows' gold answers instead of samples."""
    min_group_size: ClassVar[int] = 1

    def __init__(self, config: ObjectiveConfig):
        self.config = config

    @property
    def needs(self) -> frozenset[Need]:
        """The log-probs that the coefficients depend on, besides the current ones.

        What is not named here is not computed. With none, the coefficients come from the rewards alone.
        """
        return frozenset()

    @abstractmethod
    def trains(self, group: ScoredGroup) -> bool:
        """Whether the group has anything to learn from. V, refill and the update go by it."""

    @abstractmethod
    def advantages(self, group: ScoredGroup) -> list[float]:
        """One number per completion, [G]; a positive one makes the completion likelier."""

    def token_gradients(self, group: ScoredGroup, log_probs: LogProbs | None) -> list[list[float]]:
        """Derivative of each token's loss by its log-prob, [G][T], before the reduction weighs the tokens."""
        pairs = zip(group.completions, self.advantages(group), strict=True)
        return [[-advantage] * len(completion.token_ids) for completion, advantage in pairs]

    def training_group(self, group: ScoredGroup, log_probs: LogProbs | None = None) -> TrainingGroup:
        """The group with ``token gradient * weight`` on every token; the weight is the reduction's.

        Args:
            log_probs: of this group, where the objective ``needs`` any
        """
        group_tokens = count_tokens(group.completions)
        coefficients = []
        for gradients in self.token_gradients(group, log_probs):
            weight = _token_weight(self.config.reduction, len(gradients), group_tokens)
            coefficients.append(tuple(gradient * weight for gradient in gradients))
        return TrainingGroup(group.prompt, group.completions, tuple(coefficients), group.features)

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
