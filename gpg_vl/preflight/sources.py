"""Loads sources and their tasks and checks them once before a model is loaded; for training and evaluation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gpg_vl.config import Recipe
from gpg_vl.data.images import check_presence
from gpg_vl.data.sources import Source, load_source
from gpg_vl.preflight.digests import SourceDigest, find_change
from gpg_vl.preflight.rewards import learned_names
from gpg_vl.records import FrameList, Sample
from gpg_vl.rewards.functions import function_name, load_function
from gpg_vl.screen import say
from gpg_vl.tasks import load_task
from gpg_vl.tasks.base import Task, task_weights
from gpg_vl.user_code import describe_error


@dataclass(frozen=True)
class CheckedSources:
    """Sources in which every row is a sample that its task can score, and what the check of them found."""

    sources: list[Source]
    tasks: dict[str, Task]  # by the name that the rows use
    digests: list[str]  # one per source (``digests.py``)


def load_sources(
    entries: Sequence[str | dict[str, Any]], recipe: Recipe, key: str, needs_images: bool = True
) -> CheckedSources:
    """Loads the sources of ``data.train`` or ``data.eval`` and checks every row once, without opening images.

    Args:
        needs_images: whether a missing image file is an error

    Raises:
        ValueError: no source, or a row that its task cannot use; names file and row
    """
    if not entries:
        raise ValueError(f"{key} is empty; give at least one file, as --{key} '[data/rows.parquet]'")
    limit = recipe.evaluation.limit if key == "data.eval" else None
    sources = _open_sources(entries, recipe, limit)
    tasks: dict[str, Task] = {}
    sources_of_ids: dict[str, str] = {}
    _show_readings(sources)
    digests = [SourceDigest(source, needs_images) for source in sources]
    for source, digest in zip(sources, digests, strict=True):
        for number, sample in enumerate(source.samples, start=1):
            check_sample(sample, tasks, needs_images, f"{source.name}, row {number}")
            other = sources_of_ids.setdefault(sample.id, source.name)
            if other != source.name:
                text = f"the id {sample.id!r} occurs in {other} as well; make it unique"
                raise ValueError(f"{source.name}, row {number}: {text}")
            digest.add(sample)
    _check_scorer(recipe, tasks)
    _check_rewards(recipe, tasks)
    return CheckedSources(sources, tasks, [digest.text() for digest in digests])


def check_sample(sample: Sample, tasks: dict[str, Task], needs_images: bool, where: str) -> None:
    """
    Args:
        tasks: those that are loaded, by the name that rows use; the sample's is added
        needs_images: whether a missing image file is an error
        where: file and row

    Raises:
        ValueError: its task cannot use it; one line that begins with ``where``
    """
    try:
        if sample.task not in tasks:
            tasks[sample.task] = load_task(sample.task)
        tasks[sample.task].check(sample)
        if needs_images:
            _check_presence(sample)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    except (Exception, SystemExit) as error:  # the check may be the user's code
        raise ValueError(f"{where}: task {sample.task}: {describe_error(error)}") from error


def _check_presence(sample: Sample) -> None:
    for image in sample.images:
        check_presence(image)
    for video in sample.videos:
        for image in video.images if isinstance(video, FrameList) else ():
            check_presence(image)
        if not isinstance(video, FrameList):
            check_presence(video, "video")


def _open_sources(entries: Sequence[str | dict[str, Any]], recipe: Recipe, limit: int | None) -> list[Source]:
    if recipe.task is not None:
        _load_task_of_recipe(recipe.task)
    data = recipe.data
    return [
        load_source(entry, data.image_root, recipe.task, limit, data.image_hosts, own_tasks=recipe.tasks)
        for entry in entries
    ]


def _show_readings(sources: Sequence[Source]) -> None:
    """Says once, of the first rank, how rows are read that are in another shape than the kit's."""
    if os.environ.get("RANK", "0") == "0":
        for source in sources:
            say(source.reading, end="\n" if source.reading else "")


def _load_task_of_recipe(spec: str) -> None:
    """So that its own mistakes are said of ``task``, and not of the first row."""
    try:
        load_task(spec)
    except ValueError as error:
        raise ValueError(f"task: {error}") from error


def _check_scorer(recipe: Recipe, tasks: dict[str, Task]) -> None:
    unpublished = [name for name, task in tasks.items() if task.legacy is None]
    if recipe.rewards.scorer == "legacy" and unpublished:
        raise ValueError(f"rewards.scorer: task {unpublished[0]} has no published scorer; set rewards.scorer to strict")


def _check_rewards(recipe: Recipe, tasks: dict[str, Task]) -> None:
    """Loads the reward functions once, and checks that each weight belongs to a known part."""
    known = {"format"}.union(*(task_weights(task, recipe.rewards.scorer) for task in tasks.values()))
    for spec in recipe.rewards.functions:
        load_function(spec)
        if function_name(spec) in known:
            raise ValueError(f"rewards.functions: there is a part {function_name(spec)!r} already; rename the function")
        known.add(function_name(spec))
    known |= set(learned_names(recipe))
    unknown = sorted(set(recipe.rewards.weights) - known)
    if unknown:
        raise ValueError(f"rewards.weights: no task here has a part {unknown[0]!r}; the parts are {sorted(known)}")


def load_all_sources(recipe: Recipe) -> list[CheckedSources]:
    """The training sources, then the validation sources if there is a validation."""
    needs_images = recipe.data.on_bad_image == "fail"
    checked = [load_sources(recipe.data.train, recipe, "data.train", needs_images)]
    if recipe.run.eval_every and recipe.data.eval:
        checked.append(load_sources(recipe.data.eval, recipe, "data.eval", needs_images))
    _check_stop_when(recipe, checked)
    return checked


def check_same_rows(train: CheckedSources, digests: Sequence[str]) -> None:
    """
    Args:
        digests: the sources' digests when the run being resumed was saved

    Raises:
        ValueError: a source's rows or their order have changed
    """
    for source, now, then in zip(train.sources, train.digests, digests, strict=True):
        change = find_change(now, then)
        if change is not None:
            raise ValueError(
                f"data.train: the {change} of {source.name} are not those that the run in run.output_dir has trained "
                "on; restore them, or choose another run.output_dir"
            )


def _check_stop_when(recipe: Recipe, checked: Sequence[CheckedSources]) -> None:
    for key, each in zip(("data.train", "data.eval"), [*checked, None], strict=False):
        tasks = sorted(each.tasks) if each is not None else []
        missing = sorted(set(recipe.run.stop_when) - set(tasks))
        if missing:
            raise ValueError(f"run.stop_when: no row of {key} has the task {missing[0]!r}; its tasks are {tasks}")
