"""Sources, tasks and start-up checks that training, evaluation and ask share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpg_vl.config import Recipe
from gpg_vl.dataset import Source, check_source, load_source
from gpg_vl.models.qwen_vl import QwenVLAdapter
from gpg_vl.prompting import PromptBuilder
from gpg_vl.tasks import load_task
from gpg_vl.tasks.base import Task


def load_sources(entries: Sequence[str | dict[str, Any]], recipe: Recipe, key: str) -> list[Source]:
    """Loads the sources of ``data.train`` or ``data.eval`` and checks every row, images unopened.

    Raises:
        ValueError: no source, or a row that its task cannot use; names file and row
    """
    if not entries:
        raise ValueError(f"{key} is empty; give at least one file, as --{key} '[data/train.parquet]'")
    limit = recipe.evaluation.limit if key == "data.eval" else None
    sources = [load_source(entry, recipe.data.image_root, recipe.task, limit) for entry in entries]
    for source in sources:
        check_source(source, load_task)
    return sources


def load_tasks(sources: Sequence[Source]) -> dict[str, Task]:
    """Every task that a row names."""
    names = {sample.task for source in sources for sample in source.samples}
    return {name: load_task(name) for name in sorted(names)}


def check_prompts(
    sources: Sequence[Source], prompts: PromptBuilder, adapter: QwenVLAdapter, recipe: Recipe
) -> None:
    """Refuses rows whose prompt leaves no room for the completion.

    Raises:
        ValueError: names the sample and the key to change
    """
    room = recipe.rollout.max_new_tokens
    budget = recipe.update.tokens_per_micro_batch
    for source in sources:
        for sample in source.samples:
            prompts.check_length(
                sample, room, adapter.context_length,
                "shorten the row, or lower model.max_pixels or rollout.max_new_tokens",
            )  # fmt: skip
            prompts.check_length(sample, room, budget, "raise update.tokens_per_micro_batch")
