"""Groups of the longest row, with completions as long as the recipe allows: the worst that a rank can get in a step."""

from __future__ import annotations

from dataclasses import replace

from gpg_vl.config import Recipe, RolloutConfig
from gpg_vl.models.adapter import Adapter
from gpg_vl.objectives import find_objective
from gpg_vl.records import Completion, Prompt, TrainingGroup


def samples_groups(recipe: Recipe) -> bool:
    """Whether its steps sample completions; else they follow gold ones."""
    return not find_objective(recipe.objective.name).imitates_gold


def with_trained_groups(recipe: Recipe) -> Recipe:
    """The recipe with groups of the size that it trains: one gold completion, which counts as the longest sampled one,
    or those that it samples."""
    return recipe if samples_groups(recipe) else replace(recipe, rollout=replace(recipe.rollout, group_size=1))


def longest_groups(prompt: Prompt, config: RolloutConfig, adapter: Adapter, num: int) -> list[TrainingGroup]:
    """``num`` groups whose completions alternate between a gain and a loss."""
    token = next(token for token in range(len(adapter.head_weight)) if token not in _unusual(adapter))
    completion = Completion((token,) * config.max_new_tokens, "", finished=False)
    signs = [(-1.0) ** number for number in range(config.group_size)]
    coefficients = tuple((sign,) * config.max_new_tokens for sign in signs)
    return [TrainingGroup(prompt, (completion,) * config.group_size, coefficients) for _ in range(num)]


def _unusual(adapter: Adapter) -> set[int]:
    return {*adapter.banned_token_ids, *adapter.end_token_ids, adapter.pad_token_id}


def share_of(num_prompts: int, num_ranks: int) -> int:
    """Prompts of the rank that has most."""
    return -(-num_prompts // num_ranks)


def prompts_at_once(config: RolloutConfig, prompt_tokens: int, num: int) -> int:
    """Prompts that a rollout decodes together."""
    room = config.group_size * (prompt_tokens + config.max_new_tokens)
    return max(1, min(num, config.tokens_per_batch // room))
