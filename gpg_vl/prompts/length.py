"""How long a prompt and its completion may be, and the prompt builder that respects this limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gpg_vl.config import Recipe
from gpg_vl.data.videos import FrameSampling
from gpg_vl.models.adapter import Adapter
from gpg_vl.prompts.builder import PromptBuilder
from gpg_vl.tasks.base import Task


class LongPrompt(ValueError):
    """Prompt and completion together exceed a limit; ``data.on_long_prompt`` says what to do."""


@dataclass(frozen=True)
class Room:
    """The limits that a prompt and its completion must fit into."""

    max_new_tokens: int
    limits: Mapping[int, str]  # maximum tokens of both together -> the way out

    @property
    def longest_prompt(self) -> int:
        return min(self.limits) - self.max_new_tokens

    def check(self, num_tokens: int, gold_tokens: int | None = None) -> None:
        """Raises ``LongPrompt`` if the prompt is too long to leave room for a sampled completion or the gold one."""
        most = self.max_new_tokens if gold_tokens is None else gold_tokens
        for limit, way_out in self.limits.items():
            if num_tokens + most > limit:
                completion = f"completion up to {most}" if gold_tokens is None else f"gold completion {most}"
                raise LongPrompt(
                    f"the prompt has {num_tokens} tokens and its {completion}, together more than {limit}; {way_out}"
                )


def training_room(recipe: Recipe, adapter: Adapter, engine: Mapping[int, str] | None = None) -> Room:
    """
    Args:
        engine: limits of what samples elsewhere, as in ``Room``
    """
    way_out = {"fail": "drop or shrink", "shrink": "drop", "drop": "shrink"}[recipe.data.on_long_prompt]
    hint = f", or set data.on_long_prompt to {way_out}"
    budget = recipe.update.tokens_per_micro_batch
    limits = _limits(recipe, adapter, recipe.rollout.group_size, engine) | {
        budget: "raise update.tokens_per_micro_batch"
    }
    return Room(recipe.rollout.max_new_tokens, {limit: text + hint for limit, text in limits.items()})


def evaluation_room(recipe: Recipe, adapter: Adapter, engine: Mapping[int, str] | None = None) -> Room:
    """Limits for evaluation. No row is left out for its length: a score over fewer rows is not comparable.

    Args: see ``training_room``
    """
    hint = "" if recipe.data.on_long_prompt == "shrink" else ", or set data.on_long_prompt to shrink"
    limits = _limits(recipe, adapter, recipe.evaluation.num_samples, engine)
    limits = {limit: text + hint for limit, text in limits.items()}
    return Room(recipe.evaluation.max_new_tokens or recipe.rollout.max_new_tokens, limits)


def build_prompts(recipe: Recipe, tasks: Mapping[str, Task], adapter: Adapter, room: Room) -> PromptBuilder:
    """The builder of a recipe's prompts; with ``data.on_long_prompt: shrink`` it scales images down to fit."""
    shrink_to = room.longest_prompt if recipe.data.on_long_prompt == "shrink" else None
    shrink_large = recipe.data.on_large_image == "shrink"
    sampling = FrameSampling(recipe.data.fps, recipe.data.max_frames)
    return PromptBuilder(
        adapter, tasks, recipe.prompt, recipe.data.image_hosts, shrink_to, shrink_large, sampling,
        recipe.rollout.sends_pictures,
    )  # fmt: skip


def _limits(recipe: Recipe, adapter: Adapter, group_size: int, engine: Mapping[int, str] | None) -> dict[int, str]:
    """Limits on prompt and completion for sampling ``group_size`` completions together."""
    limits = dict(engine or {})
    if not recipe.rollout.samples_elsewhere:
        share = recipe.rollout.tokens_per_batch // group_size
        limits[share] = f"raise rollout.tokens_per_batch, which holds {group_size} of them"
    way_out = "shorten the row, lower model.max_pixels, of videos data.max_frames, or the new tokens"
    return limits | {adapter.context_length: way_out}
