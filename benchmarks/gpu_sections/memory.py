"""What whole optimizer steps take under the shipped recipes, phase by phase, and how often memory runs out.

The recipes' own budgets, optimizer and checkpointing. A rollout batch is as full as the recipe's budget allows; its
prompts are longer and its completions shorter than the recipe's, of the same length together: the cache grows as large
in a sixteenth of the time. The update runs on as many groups as fill two micro-batches, since the second one finds the
gradient of the first there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from benchmarks.flops import Lengths
from benchmarks.gpu_sections import kit
from benchmarks.gpu_sections.device import read_peak, start_peak, synchronise
from benchmarks.gpu_sections.kit import Steps
from benchmarks.gpu_sections.records import Row, Setting
from benchmarks.gpu_sections.rollout import generate
from benchmarks.gpu_sections.trial import free_memory, measured, require_seconds
from benchmarks.groups import draw_group, draw_prompt
from benchmarks.models import QWEN2_5_VL_3B, QWEN2_VL_2B, ModelShape
from gpg_vl.config import Recipe

NUM_STEPS = 3
FORCED_TOKENS = 16
RECIPES = ((QWEN2_VL_2B, "lisa"), (QWEN2_5_VL_3B, "geoqa"))
PIXELS_PER_TOKEN = 784
TEXT_TOKENS = 88


@dataclass(frozen=True, kw_only=True)
class MemoryRow(Row):
    model: str = ""
    recipe: str = ""
    step: int = 0
    phase: str = ""  # rollout, update, optimizer
    items: str = ""  # what it ran on
    allocated_mib: float | None = None
    reserved_mib: float | None = None
    retries: int | None = None  # passes begun anew with half the budget
    micro_batch_tokens: int | None = None  # the budget that was left


def run(setting: Setting) -> Iterator[MemoryRow]:
    for model, name in RECIPES:
        shape = kit.sized(model, is_tiny=setting.is_tiny)
        recipe = kit.load_shipped_recipe(name, tiny_overrides() if setting.is_tiny else ())
        yield from run_steps(setting, shape, name, recipe)
        free_memory()


def tiny_overrides() -> list[str]:
    overrides = {"rollout.max_new_tokens": 24, "rollout.group_size": 2, "rollout.tokens_per_batch": 256,
                 "update.tokens_per_micro_batch": 128, "model.max_pixels": 12544}  # fmt: skip
    return [word for key, value in overrides.items() for word in (f"--{key}", str(value))]


def run_steps(setting: Setting, shape: ModelShape, name: str, recipe: Recipe) -> Iterator[MemoryRow]:
    """Rows of three steps; the second is the first that finds the optimizer's state there."""
    lengths = recipe_lengths(recipe, is_tiny=setting.is_tiny)
    steps = kit.build_steps(shape, recipe, setting.device)
    identity: dict[str, Any] = {"model": shape.name, "recipe": name}
    for step in range(NUM_STEPS):
        for phase, work, items in phases(steps, recipe, lengths):
            row = partial(measure, setting, work)
            title = f"step {step + 1}, {phase}"
            yield measured(MemoryRow, row, name=title, step=step + 1, phase=phase, items=items, **identity)
            steps.adapter.model.train()


def recipe_lengths(recipe: Recipe, *, is_tiny: bool) -> Lengths:
    """The longest group: an image of the recipe's most pixels, completions of its most tokens."""
    text = 24 if is_tiny else TEXT_TOKENS
    return Lengths(
        recipe.model.max_pixels // PIXELS_PER_TOKEN, text, recipe.rollout.max_new_tokens, recipe.rollout.group_size
    )


def phases(steps: Steps, recipe: Recipe, n: Lengths) -> list[tuple[str, Callable[[], dict[str, Any]], str]]:
    tokens = n.prompt_tokens + n.completion_tokens
    prompts = max(1, min(recipe.rollout.prompts_per_step, recipe.rollout.tokens_per_batch // (n.group_size * tokens)))
    packed = n.prompt_tokens + n.group_size * (n.completion_tokens - 1)
    groups = 2 * max(1, recipe.update.tokens_per_micro_batch // packed)
    longer = replace(n, text_tokens=n.text_tokens + n.completion_tokens - FORCED_TOKENS)
    return [
        ("rollout", partial(roll_out, steps, longer, prompts), f"{prompts} prompts"),
        ("update", partial(update, steps, n, groups), f"{groups} groups"),
        ("optimizer", partial(take_step, steps), ""),
    ]


def roll_out(steps: Steps, lengths: Lengths, prompts: int) -> dict[str, Any]:
    built = [draw_prompt(steps.adapter, lengths, seed) for seed in range(prompts)]
    generate(steps.adapter, built, lengths.group_size, FORCED_TOKENS, lambda step: None)
    return {}


def update(steps: Steps, lengths: Lengths, groups: int) -> dict[str, Any]:
    drawn = [draw_group(steps.adapter, lengths, seed) for seed in range(groups)]
    left, error = steps.accumulate(drawn)
    if error:
        return {"status": f"out of memory: {error}"}
    retries = round(math.log2(steps.budget / left))
    return {"retries": retries, "micro_batch_tokens": left}


def take_step(steps: Steps) -> dict[str, Any]:
    steps.take()
    return {}


def measure(setting: Setting, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    if setting.device == "cuda":
        require_seconds(setting, 3.0)
    start_peak(setting.device)
    values = work()
    synchronise(setting.device)
    peak = read_peak(setting.device)
    return values | {"allocated_mib": peak.allocated, "reserved_mib": peak.reserved}
