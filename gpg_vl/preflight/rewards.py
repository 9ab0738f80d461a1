"""Whether the rewards that a recipe can give are ones that its objective takes, before anything is sampled."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from gpg_vl.config import Recipe, RewardsConfig
from gpg_vl.objectives import build_objective
from gpg_vl.objectives.base import Objective
from gpg_vl.rewards.functions import function_name
from gpg_vl.tasks.base import Task, task_weights

Range = tuple[float, float]


def fit_rewards(recipe: Recipe, objective: Objective, tasks: Iterable[Task]) -> Objective:
    """The objective, with the range of the tasks' rewards where it reads one that the recipe leaves open.

    Raises:
        ValueError: a reward can be outside of what the objective takes, or its range is unknown
    """
    declared = declared_range(recipe.rewards, tasks)
    if objective.needs_reward_range and recipe.objective.reward_range is None:
        if declared is None:
            raise ValueError(
                f"objective.reward_range: {recipe.objective.name} needs the lowest and the highest reward, which "
                "reward functions and the published scorer do not declare; give both, e.g. [0, 1]"
            )
        config = replace(recipe.objective, reward_range=declared)
        objective = build_objective(config, recipe.rollout.max_new_tokens, recipe.update.reuses_rollouts)
    if objective.reward_range is not None and declared is not None:
        (low, high), (lowest, highest) = objective.reward_range, declared
        if lowest < low - 1e-9 or highest > high + 1e-9:
            raise ValueError(
                f"objective.name: {recipe.objective.name} takes rewards in [{low:g}, {high:g}], and the tasks give "
                f"some in [{lowest:g}, {highest:g}]; change rewards.weights, or objective.reward_range where it has one"
            )
    return objective


def declared_range(config: RewardsConfig, tasks: Iterable[Task]) -> Range | None:
    """Lowest and highest total that the tasks' parts and weights allow, 0 included: what cannot be scored counts 0.

    None where a reward function or the published scorer adds to it: these declare no range.
    """
    functions = [spec for spec in config.functions if config.weights.get(function_name(spec), 1.0)]
    if functions or config.scorer == "legacy":
        return None
    ranges = [_range_of(task, config) for task in tasks]
    return min(0.0, *(low for low, _ in ranges)), max(0.0, *(high for _, high in ranges))


def _range_of(task: Task, config: RewardsConfig) -> Range:
    weights = {**task_weights(task, config.scorer), **config.weights}
    ends = [
        sorted(weight * end for end in task.ranges.get(name, (0.0, 1.0)))
        for name, weight in weights.items()
        if name in task_weights(task, config.scorer)
    ]
    return sum(low for low, _ in ends), sum(high for _, high in ends)
