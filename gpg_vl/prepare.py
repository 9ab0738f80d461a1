"""Sources, tasks and start-up checks that training and evaluation share."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from gpg_vl.config import Recipe
from gpg_vl.dataset import Source, load_source
from gpg_vl.images import BadImage, check_presence
from gpg_vl.models.qwen_vl import QwenVLAdapter
from gpg_vl.own_code import describe_error
from gpg_vl.prompting import PromptBuilder
from gpg_vl.records import Sample
from gpg_vl.reward_functions import function_name, load_function
from gpg_vl.tasks import load_task
from gpg_vl.tasks.base import Task, task_weights


@dataclass(frozen=True)
class CheckedSources:
    """Sources whose every row makes a sample that its task can score, and what the pass over them found."""

    sources: list[Source]
    tasks: dict[str, Task]  # by the name that the rows use


def load_sources(
    entries: Sequence[str | dict[str, Any]], recipe: Recipe, key: str, needs_images: bool = True
) -> CheckedSources:
    """Loads the sources of ``data.train`` or ``data.eval`` and goes over every row once, images unopened.

    Args:
        needs_images: whether an image that is not there is an error

    Raises:
        ValueError: no source, or a row that its task cannot use; names file and row
    """
    if not entries:
        raise ValueError(f"{key} is empty; give at least one file, as --{key} '[data/rows.parquet]'")
    limit = recipe.evaluation.limit if key == "data.eval" else None
    data = recipe.data
    sources = [load_source(entry, data.image_root, recipe.task, limit, data.image_hosts) for entry in entries]
    tasks: dict[str, Task] = {}
    sources_of_ids: dict[str, str] = {}
    for source in sources:
        for number, sample in enumerate(source.samples, start=1):
            try:
                if sample.task not in tasks:
                    tasks[sample.task] = load_task(sample.task)
                tasks[sample.task].check(sample)
                for image in sample.images if needs_images else ():
                    check_presence(image)
            except ValueError as error:
                raise ValueError(f"{source.name}, row {number}: {error}") from error
            except (Exception, SystemExit) as error:  # the check is the user's code
                cause = f"task {sample.task}: {describe_error(error)}"
                raise ValueError(f"{source.name}, row {number}: {cause}") from error
            other = sources_of_ids.setdefault(sample.id, source.name)
            if other != source.name:
                raise ValueError(f"{source.name}, row {number}: the id {sample.id!r} occurs in {other} as well")
    _check_scorer(recipe, tasks)
    _check_rewards(recipe, tasks)
    return CheckedSources(sources, tasks)


def _check_scorer(recipe: Recipe, tasks: dict[str, Task]) -> None:
    unpublished = [name for name, task in tasks.items() if task.legacy is None]
    if recipe.rewards.scorer == "legacy" and unpublished:
        raise ValueError(f"rewards.scorer: task {unpublished[0]} has no published scorer; set rewards.scorer to strict")


def _check_rewards(recipe: Recipe, tasks: dict[str, Task]) -> None:
    """Loads the reward functions once, and knows each part that has a weight."""
    known = {"format"}.union(*(task_weights(task, recipe.rewards.scorer) for task in tasks.values()))
    for spec in recipe.rewards.functions:
        load_function(spec)
        if function_name(spec) in known:
            raise ValueError(f"rewards.functions: there is a part {function_name(spec)!r} already; rename the function")
        known.add(function_name(spec))
    unknown = sorted(set(recipe.rewards.weights) - known)
    if unknown:
        raise ValueError(f"rewards.weights: no task here has a part {unknown[0]!r}; the parts are {sorted(known)}")


def check_rows(
    checked: CheckedSources,
    prompts: PromptBuilder,
    max_new_tokens: int,
    limits: Mapping[int, str],
    needs_images: bool = True,
) -> list[str]:
    """Opens and renders every row: a broken image or a prompt too long shows before the first step.

    Args:
        max_new_tokens: room that the completion needs behind the prompt
        limits: tokens that prompt and completion must not exceed together, each with the way out
        needs_images: whether an image that cannot be opened is an error

    Returns:
        the rows whose image cannot be opened, each with file, row and reason; empty with ``needs_images``

    Raises:
        ValueError: names the file, the row and what is wrong with it
    """
    total = sum(len(source.samples) for source in checked.sources)
    done = 0
    without_image: list[str] = []
    with ThreadPoolExecutor() as pool:  # decoding an image leaves Python's lock to others
        for source in checked.sources:
            for number, num_tokens in enumerate(_in_order(pool, prompts.count_tokens, source.samples), start=1):
                try:
                    _check_length(num_tokens(), max_new_tokens, limits)
                except ValueError as error:
                    message = f"{source.name}, row {number}: {error}"
                    if needs_images or not isinstance(error, BadImage):
                        raise ValueError(message) from error
                    without_image.append(message)
                done += 1
                if done % 5000 == 0:
                    print(f"checked {done}/{total} rows", file=sys.stderr, flush=True)
    return without_image


def _check_length(num_tokens: int, max_new_tokens: int, limits: Mapping[int, str]) -> None:
    for limit, way_out in limits.items():
        if num_tokens + max_new_tokens > limit:
            raise ValueError(
                f"the prompt has {num_tokens} tokens and its completion up to {max_new_tokens}, together more than "
                f"{limit}; {way_out}"
            )


def _in_order(
    pool: ThreadPoolExecutor, count: Callable[[Sample], int], samples: Sequence[Sample]
) -> Iterator[Callable[[], int]]:
    """The counts of the samples, as calls that wait for them, computed a bounded number of samples ahead."""
    pending: deque[Callable[[], int]] = deque()
    for sample in samples:
        pending.append(pool.submit(count, sample).result)
        if len(pending) > 64:
            yield pending.popleft()
    yield from pending


def context_limit(adapter: QwenVLAdapter) -> dict[int, str]:
    """The model's own limit, for ``check_rows``."""
    return {adapter.context_length: "shorten the row, or lower model.max_pixels or the new tokens"}
