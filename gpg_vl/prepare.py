"""Sources, tasks and start-up checks that training and evaluation share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gpg_vl.config import Recipe
from gpg_vl.dataset import Source, load_source
from gpg_vl.models.qwen_vl import QwenVLAdapter
from gpg_vl.prompting import PromptBuilder
from gpg_vl.reward_functions import function_name, load_function
from gpg_vl.tasks import load_task
from gpg_vl.tasks.base import Task


@dataclass(frozen=True)
class CheckedSources:
    """Sources whose every row makes a sample that its task can score, and what the pass over them found."""

    sources: list[Source]
    tasks: dict[str, Task]  # by the name that the rows use
    longest_question: int  # bytes
    most_images: int  # in one row


def load_sources(entries: Sequence[str | dict[str, Any]], recipe: Recipe, key: str) -> CheckedSources:
    """Loads the sources of ``data.train`` or ``data.eval`` and goes over every row once, images unopened.

    Raises:
        ValueError: no source, or a row that its task cannot use; names file and row
    """
    if not entries:
        raise ValueError(f"{key} is empty; give at least one file, as --{key} '[data/rows.parquet]'")
    limit = recipe.evaluation.limit if key == "data.eval" else None
    sources = [load_source(entry, recipe.data.image_root, recipe.task, limit) for entry in entries]
    tasks: dict[str, Task] = {}
    longest_question = most_images = 0
    for source in sources:
        for number, sample in enumerate(source.samples, start=1):
            try:
                if sample.task not in tasks:
                    tasks[sample.task] = load_task(sample.task)
                tasks[sample.task].check(sample)
            except ValueError as error:
                raise ValueError(f"{source.name}, row {number}: {error}") from error
            longest_question = max(longest_question, len(sample.question.encode()))
            most_images = max(most_images, len(sample.images))
    _check_rewards(recipe, tasks)
    return CheckedSources(sources, tasks, longest_question, most_images)


def _check_rewards(recipe: Recipe, tasks: dict[str, Task]) -> None:
    """Loads the reward functions once, and knows each part that has a weight."""
    known = {"format"}.union(*(task.weights for task in tasks.values()))
    for spec in recipe.rewards.functions:
        load_function(spec)
        if function_name(spec) in known:
            raise ValueError(f"rewards.functions: there is a part {function_name(spec)!r} already; rename the function")
        known.add(function_name(spec))
    unknown = sorted(set(recipe.rewards.weights) - known)
    if unknown:
        raise ValueError(f"rewards.weights: no task here has a part {unknown[0]!r}; the parts are {sorted(known)}")


def check_prompt_lengths(
    checked: CheckedSources, prompts: PromptBuilder, adapter: QwenVLAdapter, recipe: Recipe, max_new_tokens: int
) -> None:
    """Refuses rows whose prompt leaves no room for the completion; opens no image.

    A prompt has at most as many tokens as its text has bytes, plus those of its images. Only where that bound is too
    large for some row are the rows encoded to know.

    Raises:
        ValueError: names the sample, its length and the key to change
    """
    limits = {
        adapter.context_length: "shorten the row, or lower model.max_pixels or rollout.max_new_tokens",
        recipe.update.tokens_per_micro_batch: "raise update.tokens_per_micro_batch",
    }
    bound = prompts.max_tokens(checked.longest_question, checked.most_images) + max_new_tokens
    if bound <= min(limits):
        return
    for source in checked.sources:
        for sample in source.samples:
            num_tokens = prompts.count_tokens(sample)
            for limit, way_out in limits.items():
                if num_tokens + max_new_tokens > limit:
                    raise ValueError(
                        f"{source.name}: the prompt of sample {sample.id} has {num_tokens} tokens and its completion "
                        f"up to {max_new_tokens}, together more than {limit}; {way_out}"
                    )
