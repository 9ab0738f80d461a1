"""Parts of the reward that a model learned: ``[0, 1]`` for each completion, added to what the tasks give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate import Accelerator

from gpg_vl.config import Recipe
from gpg_vl.learned.features import read_completions
from gpg_vl.learned.gold_part import GoldLikeness
from gpg_vl.learned.head import load_head
from gpg_vl.learned.part import LearnedPart
from gpg_vl.learned.relaxed_gradient import RelaxedGradient
from gpg_vl.models.adapter import Adapter
from gpg_vl.objectives.base import Objective, given
from gpg_vl.processes.ranks import run_together
from gpg_vl.prompts.gold import GoldCompletions
from gpg_vl.records import Reward, ScoredGroup
from gpg_vl.update.reference import InitialModel


class PreferencePart(LearnedPart):
    """How the head of ``rewards.preference`` sees a completion, on the hidden states of the initial model."""

    name = "preference"
    is_in_total = True

    def __init__(self, recipe: Recipe, initial: InitialModel, accelerator: Accelerator):
        super().__init__(accelerator)
        self._head = load_head(Path(str(recipe.rewards.preference)), recipe.model)
        self._recipe = recipe
        self._initial = initial

    def _measure(self, groups: Sequence[ScoredGroup]) -> list[list[float]]:
        if not groups:
            return []
        with self._initial.running() as adapter:
            return [self._head.values(each) for each in read_completions(adapter, groups, self._recipe.update)]


@dataclass(frozen=True, slots=True)
class LearnedParts:
    """The parts of a run."""

    fixed: tuple[LearnedPart, ...] = ()
    gold: GoldLikeness | None = None  # which learns on
    gradient: RelaxedGradient | None = None  # of ``gold``, where that is followed through relaxed samples
    initial: InitialModel | None = None  # which they read

    @property
    def all(self) -> tuple[LearnedPart, ...]:
        return self.fixed if self.gold is None else (*self.fixed, self.gold)


def build_parts(
    recipe: Recipe, objective: Objective, adapter: Adapter, gold: GoldCompletions, accelerator: Accelerator
) -> LearnedParts:
    """The parts that a recipe asks for; where there are none, no model is loaded. All ranks together.

    Raises:
        ValueError: the initial model cannot be read, or a part was learned on another one; a RankError with several
            ranks
    """
    if recipe.rewards.preference is None and not objective.has_discriminator:
        return LearnedParts()
    initial = InitialModel(recipe, adapter, accelerator)
    return run_together(lambda: _build_on(initial, recipe, objective, adapter, gold, accelerator))


def _build_on(
    initial: InitialModel,
    recipe: Recipe,
    objective: Objective,
    adapter: Adapter,
    gold: GoldCompletions,
    accelerator: Accelerator,
) -> LearnedParts:
    has_preference = recipe.rewards.preference is not None
    fixed = (PreferencePart(recipe, initial, accelerator),) if has_preference else ()
    if not objective.has_discriminator:
        return LearnedParts(fixed, initial=initial)
    learning = GoldLikeness(recipe, objective, initial, gold, accelerator)
    if learning.is_in_total:
        return LearnedParts(fixed, learning, initial=initial)
    temperature = given(objective.config.relaxed_temperature)
    return LearnedParts(fixed, learning, RelaxedGradient(recipe, learning, adapter, temperature), initial)


def add_parts(
    parts: Sequence[LearnedPart], groups: Sequence[ScoredGroup], weights: Mapping[str, float]
) -> list[ScoredGroup]:
    """The groups with every part in their rewards; a completion that could not be scored stays at 0.

    Args:
        weights: of parts by name; 1 for one that is not named
    """
    added = list(groups)
    for part in parts:
        weight = weights.get(part.name, 1.0) if part.is_in_total else 0.0
        pairs = zip(added, part.measure(groups), strict=True)
        added = [replace(group, rewards=_add(part.name, weight, group, values)) for group, values in pairs]
    return added


def _add(name: str, weight: float, group: ScoredGroup, values: Sequence[float]) -> tuple[Reward, ...]:
    return tuple(
        reward
        if reward.has_failed
        else replace(reward, total=reward.total + weight * value, parts={**reward.parts, name: value})
        for reward, value in zip(group.rewards, values, strict=True)
    )
