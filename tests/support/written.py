"""Groups as plain numbers, through the kit's own objectives: loss, and its derivative by every log-prob."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpg_vl.config import ObjectiveConfig
from gpg_vl.objectives import build_objective
from gpg_vl.objectives.base import Objective
from gpg_vl.records import Completion, LogProbs, Reward, ScoredGroup, TrainingGroup
from tests.support.hostile_groups import group as make_group

Rows = tuple[tuple[float, ...], ...]  # [G][T]


@dataclass(frozen=True)
class Numbers:
    """One group: rewards [G], log-probs [G][T] now, when it was sampled and under the reference."""

    rewards: tuple[float, ...]
    current: Rows
    old: Rows
    reference: Rows
    finished: tuple[bool, ...] | None = None  # all, where it is None

    @property
    def lengths(self) -> list[int]:
        return [len(row) for row in self.current]

    @property
    def group(self) -> ScoredGroup:
        finished = self.finished or (True,) * len(self.rewards)
        completions = tuple(
            Completion(tuple(range(n)), "", is_finished) for n, is_finished in zip(self.lengths, finished, strict=True)
        )
        rewards = tuple(Reward(reward, {}, "ok") for reward in self.rewards)
        return ScoredGroup(make_group("").prompt, completions, rewards)

    @property
    def log_probs(self) -> LogProbs:
        return LogProbs(self.current, self.old, self.reference)

    def on_policy(self) -> Numbers:
        """The same in the first update of a rollout."""
        return Numbers(self.rewards, self.current, self.current, self.reference, self.finished)


@dataclass(frozen=True)
class Followed:
    """What the kit follows on some groups."""

    loss: float
    gradient: list[list[list[float]]]  # by group, completion and token; zeros for a group that is not trained
    trained: list[bool]

    @property
    def flat(self) -> list[float]:
        return [each for group in self.gradient for row in group for each in row]


def follow(
    config: ObjectiveConfig, groups: Sequence[Numbers], is_reused: bool = True, max_new_tokens: int = 8
) -> Followed:
    """Coefficients and loss of the groups, divided by the denominator, as the update divides them."""
    return follow_with(build_objective(config, max_new_tokens, is_reused), groups)


def follow_with(objective: Objective, groups: Sequence[Numbers]) -> Followed:
    scored = [each.group for each in groups]
    is_trained = [objective.trains(group) for group in scored]
    trained = [group for group, each in zip(scored, is_trained, strict=True) if each]
    if not trained:
        return Followed(0.0, [[[0.0] * n for n in each.lengths] for each in groups], is_trained)
    denominator = objective.denominator(objective.count(scored, trained), len(scored))
    loss, gradient = 0.0, []
    for numbers, group, each in zip(groups, scored, is_trained, strict=True):
        if not each:
            gradient.append([[0.0] * n for n in numbers.lengths])
            continue
        loss += objective.loss(group, numbers.log_probs) / denominator
        training = _training_group(objective, group, numbers.log_probs)
        gradient.append([[c / denominator for c in row] for row in training.coefficients])
    return Followed(loss, gradient, is_trained)


def _training_group(objective: Objective, group: ScoredGroup, log_probs: LogProbs) -> TrainingGroup:
    """With the log-probs that the update would have measured, and no others."""
    if not objective.needs:
        return objective.training_group(group)
    reference = log_probs.reference if "reference" in objective.needs else log_probs.current
    return objective.training_group(group, LogProbs(log_probs.current, log_probs.old, reference))
