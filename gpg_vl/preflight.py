"""What is checked before the first step of a run: recipe against rows, every row against the model.

Each mistake is a ``ValueError`` of one line with the file, row or key and the way out.
"""

from __future__ import annotations

from collections.abc import Sequence

from gpg_vl.config import Recipe
from gpg_vl.models.qwen_vl import QwenVLAdapter
from gpg_vl.objectives.base import Objective
from gpg_vl.prepare import CheckedSources, check_rows, context_limit, load_sources
from gpg_vl.prompting import PromptBuilder


def check_group_size(recipe: Recipe, objective: Objective) -> None:
    if recipe.rollout.group_size < objective.min_group_size:
        raise ValueError(
            f"rollout.group_size is {recipe.rollout.group_size}, but objective {recipe.objective.name} compares the "
            f"completions of a group; set it to {objective.min_group_size} or more"
        )


def load_all_sources(recipe: Recipe) -> list[CheckedSources]:
    """The training sources, then those of the validation where there is one."""
    checked = [load_sources(recipe.data.train, recipe, "data.train")]
    if recipe.run.eval_every and recipe.data.eval:
        checked.append(load_sources(recipe.data.eval, recipe, "data.eval"))
    _check_stop_when(recipe, checked)
    return checked


def _check_stop_when(recipe: Recipe, checked: Sequence[CheckedSources]) -> None:
    for key, each in zip(("data.train", "data.eval"), [*checked, None], strict=False):
        tasks = sorted(each.tasks) if each is not None else []
        missing = sorted(set(recipe.run.stop_when) - set(tasks))
        if missing:
            raise ValueError(f"run.stop_when: no row of {key} has the task {missing[0]!r}; its tasks are {tasks}")


def check_all_rows(
    recipe: Recipe, checked: Sequence[CheckedSources], prompts: PromptBuilder, adapter: QwenVLAdapter
) -> None:
    budget = {recipe.update.tokens_per_micro_batch: "raise update.tokens_per_micro_batch"}
    check_rows(checked[0], prompts, recipe.rollout.max_new_tokens, context_limit(adapter) | budget)
    for validation in checked[1:]:
        room = recipe.evaluation.max_new_tokens or recipe.rollout.max_new_tokens
        check_rows(validation, prompts, room, context_limit(adapter))
