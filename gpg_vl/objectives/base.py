"""What every objective has: which groups it trains, the coefficient of each token, and the step's denominator.

The loss of an update is a weighted sum of token losses over a denominator; the division is the update's
(``update/gradient.py``). Its gradient is ``sum over tokens of coefficient * gradient of log-prob / denominator``.
"""

from __future__ import annotations

import statistics
from abc import ABC, abstractmethod
from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeVar

from gpg_vl.config import ObjectiveConfig, Reduction
from gpg_vl.objectives.valid_groups import has_signal
from gpg_vl.records import LogProbs, ScoredGroup, StepTotals, TrainingGroup, count_tokens

Need = Literal["old", "reference"]
"""Log-probs under the weights that sampled, and under the frozen initial policy."""
T = TypeVar("T")
Term = tuple[float, float]
"""A token's loss, and its derivative by the token's log-prob."""


def given(value: T | None) -> T:
    """A value that is there: of a key that the objective reads, or log-probs that it has asked for."""
    assert value is not None
    return value


def totals_of(group: ScoredGroup) -> list[float]:
    """The rewards of a group, [G]."""
    return [reward.total for reward in group.rewards]


def centre(values: Sequence[float]) -> list[float]:
    mean = statistics.fmean(values)
    return [value - mean for value in values]


def centred_rewards(group: ScoredGroup, config: ObjectiveConfig) -> list[float]:
    """(r_i - mean(r)) / F_norm, [G] (paper, Eq. 6); zeros for a group without signal."""
    return normalised(totals_of(group), config) if has_signal(group) else [0.0] * len(group.rewards)


def normalised(values: Sequence[float], config: ObjectiveConfig) -> list[float]:
    """(x_i - mean(x)) / F_norm, where the values differ."""
    norm = statistics.stdev(values) + given(config.f_norm_eps) if config.f_norm == "std" else 1.0  # ddof 1
    return [value / norm for value in centre(values)]


class Objective(ABC):
    """An objective whose coefficients come from the rewards, and where it asks for them from log-probs."""

    keys: ClassVar[frozenset[str]]
    """The keys of ``ObjectiveConfig`` that it reads, besides name, beta_th and max_draws, which every one has."""
    defaults: ClassVar[Mapping[str, Any]] = {
        "f_norm": "one",
        "f_norm_eps": 0.0,
        "alpha": True,
        "reduction": "group",
        "beta_th": 0.6,
        "max_draws": 20,
    }
    """Values of keys that the recipe leaves open, on top of those of the class that this one extends."""
    forms: ClassVar[tuple[str, ...]] = ()
    """The values of ``form``, where there are several."""
    imitates_gold: ClassVar[bool] = False
    """Whether the completions are the rows' gold answers instead of samples."""
    has_discriminator: ClassVar[bool] = False
    """Whether a discriminator of gold and sampled completions adds a part to the reward."""
    min_group_size: ClassVar[int] = 1
    allows_reuse: ClassVar[bool] = False
    """Whether its gradient stays right after the weights have moved away from those that sampled."""
    cuts_surplus: ClassVar[bool] = False
    """Whether a step trains at most ``prompts_per_step`` groups, however many a further draw brings."""

    def __init__(self, config: ObjectiveConfig, is_reused: bool = False):
        """
        Args:
            config: with a value for every key that it reads, as ``build_objective`` makes it
            is_reused: whether a rollout is followed by several updates
        """
        self.config = config
        self.is_reused = is_reused

    @property
    def needs(self) -> frozenset[Need]:
        """The log-probs that the coefficients depend on, besides the current ones.

        What is not named here is not computed. With none, the coefficients come from the rewards alone.
        """
        return frozenset()

    @property
    def reduction(self) -> Reduction:
        return given(self.config.reduction)

    @property
    def counts_silent(self) -> bool:
        """Whether the loss is a mean over all groups that were sampled, not only over those that are trained."""
        return False

    @property
    def reward_range(self) -> tuple[float, float] | None:
        """Lowest and highest reward that it can take; None where it takes any."""
        return None

    @property
    def needs_reward_range(self) -> bool:
        """Whether it reads ``reward_range`` of the config, which the recipe may leave to the tasks."""
        return False

    @property
    def has_fixed_advantages(self) -> bool:
        """Whether the update uses the ``advantages`` as they are; not where log-probs add a part to the reward."""
        return True

    @abstractmethod
    def trains(self, group: ScoredGroup) -> bool:
        """Whether the group has anything to learn from. V, refill and the update go by it."""

    @abstractmethod
    def advantages(self, group: ScoredGroup) -> list[float]:
        """One number per completion, [G]; a positive one makes the completion likelier."""

    def token_terms(self, group: ScoredGroup, log_probs: LogProbs) -> list[list[Term]]:
        """Each token's loss and its derivative by the token's log-prob, [G][T], before the reduction weighs them.

        Here it is -A_i * log p. Where the objective ``needs`` nothing, the update knows no log-probs, and all that are
        passed are 0: the derivative must not depend on them.
        """
        pairs = zip(log_probs.current, self.advantages(group), strict=True)
        return [[(-advantage * now, -advantage) for now in row] for row, advantage in pairs]

    def token_weights(self, group: ScoredGroup) -> list[float]:
        """The weight of each completion's tokens, [G]: the reduction's."""
        lengths = [len(completion.token_ids) for completion in group.completions]
        if self.reduction == "group":
            return [1 / sum(lengths)] * len(lengths)
        if self.reduction == "constant":
            return [1 / given(self.config.max_length)] * len(lengths)
        return [1 / length if self.reduction == "sequence" else 1.0 for length in lengths]

    def check_rewards(self, group: ScoredGroup) -> None:
        """
        Raises:
            ValueError: a reward is outside of ``reward_range``; names the sample
        """
        for reward in totals_of(group) if self.reward_range is not None else ():
            low, high = given(self.reward_range)
            if not low - 1e-9 <= reward <= high + 1e-9:
                raise ValueError(
                    f"sample {group.prompt.sample.id}: a reward is {reward:g}, and objective {self.config.name} takes "
                    f"rewards in [{low:g}, {high:g}]; set rewards.weights, or objective.reward_range where it has one"
                )

    def num_trained(self, group: ScoredGroup) -> tuple[int, int]:
        """Sequences and tokens of a trained group that the denominator counts."""
        return len(group.completions), count_tokens(group.completions)

    def training_group(self, group: ScoredGroup, log_probs: LogProbs | None = None) -> TrainingGroup:
        """The group with ``derivative * weight`` on every token; the weight is the reduction's.

        Args:
            log_probs: of this group, where the objective ``needs`` any
        """
        terms = self.token_terms(group, log_probs or _unmoved(group))
        weights = self.token_weights(group)
        coefficients = tuple(
            tuple(slope * weight for _, slope in row) for row, weight in zip(terms, weights, strict=True)
        )
        return TrainingGroup(group.prompt, group.completions, coefficients, group.features)

    def loss(self, group: ScoredGroup, log_probs: LogProbs) -> float:
        """The group's part of the written loss, before the division by the denominator."""
        pairs = zip(self.token_terms(group, log_probs), self.token_weights(group), strict=True)
        return sum(weight * sum(loss for loss, _ in row) for row, weight in pairs)

    def count(self, groups: Sequence[ScoredGroup], trained: Sequence[ScoredGroup]) -> StepTotals:
        """The counts of these groups, of which ``trained`` are trained."""
        counted = [self.num_trained(group) for group in trained]
        return StepTotals(
            groups=len(groups),
            sequences=sum(len(group.completions) for group in groups),
            tokens=sum(count_tokens(group.completions) for group in groups),
            trained_groups=len(trained),
            trained_sequences=sum(sequences for sequences, _ in counted),
            trained_tokens=sum(tokens for _, tokens in counted),
        )

    def denominator(self, totals: StepTotals, num_prompts: float) -> float:
        """What the sum over all tokens of the update is divided by.

        With ``alpha`` it makes the mean over the V trained groups; without, that mean times V / num_prompts. An
        objective that ``counts_silent`` has the mean over all groups.

        Args:
            num_prompts: prompts_per_step; of a mini-batch, its share of that
        """
        if self.counts_silent:
            return {"group": totals.groups, "group_sum": totals.groups}.get(
                self.reduction, totals.tokens if self.reduction.startswith("token") else totals.sequences
            )
        alpha = totals.alpha
        units = {
            "group": totals.trained_groups,
            "group_sum": totals.trained_groups,
            "token": totals.trained_tokens,
            "token_official": totals.tokens / alpha,
        }.get(self.reduction, totals.trained_sequences)
        if not self.config.alpha:
            return units * num_prompts / totals.trained_groups
        return units * (1 + self.config.alpha_eps * alpha)


def defaults_of(objective: type) -> Mapping[str, Any]:
    """Of its keys that a recipe leaves open."""
    return ChainMap(*(vars(each).get("defaults", {}) for each in objective.__mro__))


def _unmoved(group: ScoredGroup) -> LogProbs:
    """The policy as it sampled: what an objective makes of it depends on differences alone."""
    zeros = tuple((0.0,) * len(completion.token_ids) for completion in group.completions)
    return LogProbs(zeros, zeros, zeros)
