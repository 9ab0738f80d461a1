"""What is checked before the first step of a run: recipe against rows, every row against the model.

Each mistake is a ``ValueError`` of one line with the file, row or key and the way out.
"""

from __future__ import annotations

from collections.abc import Sequence

from gpg_vl.config import Recipe
from gpg_vl.models.qwen_vl import QwenVLAdapter
from gpg_vl.objectives.base import Objective
from gpg_vl.preflight.rows import Cause, SourceReport, check_rows, evaluation_room, training_room
from gpg_vl.preflight.sources import CheckedSources, load_sources
from gpg_vl.prompts.builder import PromptBuilder
from gpg_vl.prompts.gold import GoldCompletions


def check_group_size(recipe: Recipe, objective: Objective) -> None:
    if recipe.rollout.group_size < objective.min_group_size:
        raise ValueError(
            f"rollout.group_size is {recipe.rollout.group_size}, but objective {recipe.objective.name} compares the "
            f"completions of a group; set it to {objective.min_group_size} or more"
        )


def load_all_sources(recipe: Recipe) -> list[CheckedSources]:
    """The training sources, then those of the validation where there is one."""
    needs_images = recipe.data.on_bad_image == "fail"
    checked = [load_sources(recipe.data.train, recipe, "data.train", needs_images)]
    if recipe.run.eval_every and recipe.data.eval:
        checked.append(load_sources(recipe.data.eval, recipe, "data.eval", needs_images))
    _check_stop_when(recipe, checked)
    return checked


def check_same_rows(train: CheckedSources, digests: Sequence[str]) -> None:
    """
    Args:
        digests: of the sources, when the run that goes on now was saved

    Raises:
        ValueError: a source has other rows, or another order of them
    """
    for source, now, then in zip(train.sources, train.digests, digests, strict=True):
        if now != then:
            raise ValueError(
                f"data.train: {source.name} holds other rows than the run in run.output_dir was trained on so far; "
                "restore them, or choose another run.output_dir"
            )


def _check_stop_when(recipe: Recipe, checked: Sequence[CheckedSources]) -> None:
    for key, each in zip(("data.train", "data.eval"), [*checked, None], strict=False):
        tasks = sorted(each.tasks) if each is not None else []
        missing = sorted(set(recipe.run.stop_when) - set(tasks))
        if missing:
            raise ValueError(f"run.stop_when: no row of {key} has the task {missing[0]!r}; its tasks are {tasks}")


def check_all_rows(
    recipe: Recipe,
    checked: Sequence[CheckedSources],
    train: PromptBuilder,
    validate: PromptBuilder,
    adapter: QwenVLAdapter,
    gold: GoldCompletions | None,
) -> list[SourceReport]:
    """Every row against the model; what was found in the training sources.

    Args:
        gold: where the objective imitates the gold completions

    A validation row whose image cannot be opened counts as wrong, where a training row would be left out.

    Raises:
        ValueError: a row, or all, cannot be used; names it and the way out
    """
    skipped: set[Cause] = {"bad_image"} if recipe.data.on_bad_image == "skip" else set()
    dropped: set[Cause] = {"long_prompt"} if recipe.data.on_long_prompt == "drop" else set()
    reports = check_rows(checked[0].sources, train, training_room(recipe, adapter), skipped | dropped, gold)
    left_out = [row for report in reports for row in report.left_out]
    if len(left_out) == sum(report.num_rows for report in reports):
        raise ValueError(f"no row of data.train can be used; the first: {left_out[0].text}")
    for each in checked[1:]:
        check_rows(each.sources, validate, evaluation_room(recipe, adapter), skipped)
    return reports
