"""What is checked before torch is imported: the recipe, every row, and whether the model's folder is there.

A mistake in them is said within a second or two. Several ranks check the same once they are connected, so that all end.
"""

from __future__ import annotations

import os
from pathlib import Path

from gpg_vl.config import Recipe
from gpg_vl.models.folder.paths import find_checkpoints, resolve_model_path
from gpg_vl.objectives import build_objective
from gpg_vl.objectives.base import Objective
from gpg_vl.preflight.outputs import refuse_inputs
from gpg_vl.preflight.preference import check_head
from gpg_vl.preflight.rewards import fit_rewards
from gpg_vl.preflight.sources import CheckedSources, load_all_sources, load_sources
from gpg_vl.preflight.trackers import check_trackers
from gpg_vl.rollout import check_engine, check_temperature


def check_run(recipe: Recipe) -> list[CheckedSources] | None:
    """The sources of a training run; None with several ranks.

    Raises:
        ValueError: the recipe or a row cannot be used, or there is no model; one line
    """
    if _has_several_ranks():
        return None
    objective = check_recipe(recipe)
    check_trackers(recipe.run.trackers)
    if not find_checkpoints(Path(recipe.run.output_dir)):  # a resumed run has its weights there
        resolve_model_path(recipe.model.path)
        refuse_inputs("run.output_dir", Path(recipe.run.output_dir), recipe)
    checked = load_all_sources(recipe)
    fit_rewards(recipe, objective, checked[0].tasks.values())
    return checked


def check_evaluation(recipe: Recipe) -> CheckedSources | None:
    """The sources of an evaluation; None with several ranks.

    Raises:
        ValueError: the recipe or a row cannot be used; one line
    """
    if _has_several_ranks():
        return None
    check_engine(recipe.rollout)
    return load_evaluation(recipe)


def load_evaluation(recipe: Recipe) -> CheckedSources:
    """The sources of ``data.eval``. A row whose image is missing counts as wrong and is no error."""
    check_temperature(recipe.rollout.engine, "evaluation.temperature", recipe.evaluation.temperature)
    return load_sources(recipe.data.eval, recipe, "data.eval", needs_images=False)


def check_recipe(recipe: Recipe) -> Objective:
    """The objective; refuses keys of engine, objective, rollout and rewards that do not fit together."""
    check_engine(recipe.rollout)
    check_temperature(recipe.rollout.engine, "rollout.temperature", recipe.rollout.temperature)
    check_temperature(recipe.rollout.engine, "evaluation.temperature", recipe.evaluation.temperature)
    if recipe.model.family == "generic" and recipe.update.pack:
        raise ValueError("model.family: generic trains on ordinary rows; set update.pack to false")
    objective = build_objective(recipe.objective, recipe.rollout.max_new_tokens, recipe.reuses_rollouts)
    _check_ahead(recipe, objective)
    _check_refresh(recipe, objective)
    _check_group_size(recipe, objective)
    if recipe.rewards.preference is not None:
        check_head(Path(recipe.rewards.preference), recipe.model)
    return objective


def _check_group_size(recipe: Recipe, objective: Objective) -> None:
    if recipe.rollout.group_size < objective.min_group_size:
        raise ValueError(
            f"rollout.group_size is {recipe.rollout.group_size}, but objective {recipe.objective.name} compares the "
            f"completions of a group; set it to at least {objective.min_group_size}"
        )
    if objective.config.pairs == "disjoint" and recipe.rollout.group_size % 2:
        raise ValueError(
            f"rollout.group_size is {recipe.rollout.group_size}, and objective.pairs: disjoint leaves one completion "
            "without a partner; set an even number, or other pairs"
        )


def _check_refresh(recipe: Recipe, objective: Objective) -> None:
    """
    Raises:
        ValueError: the objective takes no log-probs, so its gradient would not know that the policy has moved
    """
    if recipe.rollout.refresh is not None and not objective.needs:
        raise ValueError(
            f"rollout.refresh: {recipe.objective.name} does not correct for a policy that has shifted since the "
            "rollout; leave it out, or set update.epochs_per_rollout"
        )


def _check_ahead(recipe: Recipe, objective: Objective) -> None:
    """
    Raises:
        ValueError: servers would sample what the objective does not follow
    """
    if recipe.rollout.ahead and objective.imitates_gold:
        raise ValueError(
            f"rollout.ahead is {recipe.rollout.ahead}, but objective {recipe.objective.name} follows gold completions "
            "and samples none; set it to 0"
        )


def _has_several_ranks() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1
