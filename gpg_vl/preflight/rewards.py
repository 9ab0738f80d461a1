"""Whether the rewards that a recipe can give are ones that its objective takes, before anything is sampled.

What an objective has to know of them and the recipe leaves open comes from what the tasks declare.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from gpg_vl.config import Recipe, RewardsConfig
from gpg_vl.objectives import build_objective, find_objective
from gpg_vl.objectives.base import Objective, given
from gpg_vl.rewards.functions import function_name
from gpg_vl.tasks.base import Task, main_part, task_weights

Range = tuple[float, float]
ROUNDING = 1e-9
"""By which the same parts can add up to another total in another order."""


def fit_rewards(recipe: Recipe, objective: Objective, tasks: Iterable[Task]) -> Objective:
    """The objective, with what the tasks declare of their rewards where it reads that and the recipe leaves it open.

    Raises:
        ValueError: a reward can be outside of what the objective takes, its range is unknown, or it is always 0
    """
    tasks = list(tasks)
    if not objective.imitates_gold:
        for task in tasks:
            _refuse_no_weight(task, recipe)
    declared = declared_range(recipe, tasks)
    if found := {**_find_range(recipe, objective, declared), **_find_acceptance(recipe, objective, tasks, declared)}:
        config = replace(recipe.objective, **found)
        objective = build_objective(config, recipe.rollout.max_new_tokens, recipe.reuses_rollouts)
    if objective.reward_range is not None and declared is not None:
        (low, high), (lowest, highest) = objective.reward_range, declared
        if lowest < low - 1e-9 or highest > high + 1e-9:
            raise ValueError(
                f"objective.name: {recipe.objective.name} takes rewards in [{low:g}, {high:g}], and the tasks give "
                f"some in [{lowest:g}, {highest:g}]; change rewards.weights, or objective.reward_range where it has one"
            )
    return objective


def _find_range(recipe: Recipe, objective: Objective, declared: Range | None) -> dict[str, Any]:
    if not objective.needs_reward_range or recipe.objective.reward_range is not None:
        return {}
    if declared is None:
        raise ValueError(
            f"objective.reward_range: {recipe.objective.name} needs the lowest and the highest reward, which "
            "reward functions and the published scorer do not declare; give both, e.g. [0, 1]"
        )
    return {"reward_range": declared}


def _find_acceptance(
    recipe: Recipe, objective: Objective, tasks: Iterable[Task], declared: Range | None
) -> dict[str, Any]:
    """Above what a completion can get besides its main part: a wrong answer is not accepted for its form."""
    if "accept_above" not in objective.keys or recipe.objective.accept_above is not None:
        return {}
    beside = max(_most_beside(task, recipe) for task in tasks)
    if beside <= given(objective.config.accept_above):
        return {}
    if declared is None or declared[1] <= beside + ROUNDING:
        raise ValueError(
            f"objective.accept_above: a wrong answer can get a reward of {beside:g}, and what a right one gets beyond "
            f"that is nothing or not declared; give the number above which {recipe.objective.name} accepts"
        )
    return {"accept_above": beside + ROUNDING}


def _most_beside(task: Task, recipe: Recipe) -> float:
    """The highest total of the parts that say nothing of a right answer."""
    config = recipe.rewards
    parts = _part_ranges(task, config)
    learned = sum(max(config.weights.get(name, 1.0), 0.0) for name in learned_names(recipe))
    return learned + sum(high for name, (_, high) in parts.items() if name != main_part(task, parts))


def _refuse_no_weight(task: Task, recipe: Recipe) -> None:
    config = recipe.rewards
    others = [*map(function_name, config.functions), *learned_names(recipe)]
    parts = {**task_weights(task, config.scorer), **dict.fromkeys(others, 1.0)}
    if not any(config.weights.get(name, weight) for name, weight in parts.items()):
        raise ValueError(
            f"rewards.weights: every part of task {task.name} has weight 0 ({', '.join(parts)}), so all its rewards "
            "are 0; give one a weight"
        )


def learned_names(recipe: Recipe) -> list[str]:
    """The parts of the reward that a model learned, each in [0, 1]."""
    parts = {
        "preference": recipe.rewards.preference is not None,
        "discriminator": find_objective(recipe.objective.name).has_discriminator,
    }
    return [name for name, is_used in parts.items() if is_used]


def declared_range(recipe: Recipe, tasks: Iterable[Task]) -> Range | None:
    """Lowest and highest total that all parts and weights allow, 0 included: what cannot be scored counts 0.

    None where a reward function or the published scorer adds to it: these declare no range.
    """
    config = recipe.rewards
    functions = [spec for spec in config.functions if config.weights.get(function_name(spec), 1.0)]
    if functions or config.scorer == "legacy":
        return None
    learned = [config.weights.get(name, 1.0) for name in learned_names(recipe)]
    ranges = [_range_of(task, config) for task in tasks]
    lowest = min(low for low, _ in ranges) + sum(min(weight, 0.0) for weight in learned)
    highest = max(high for _, high in ranges) + sum(max(weight, 0.0) for weight in learned)
    return min(0.0, lowest), max(0.0, highest)


def _range_of(task: Task, config: RewardsConfig) -> Range:
    ranges = _part_ranges(task, config).values()
    return sum(low for low, _ in ranges), sum(high for _, high in ranges)


def _part_ranges(task: Task, config: RewardsConfig) -> dict[str, Range]:
    """Lowest and highest value of each of the task's parts, weighted."""
    found = {}
    for name, weight in task_weights(task, config.scorer).items():
        low, high = sorted(config.weights.get(name, weight) * end for end in task.ranges.get(name, (0.0, 1.0)))
        found[name] = low, high
    return found
