"""What whole optimizer steps take under the shipped recipes, phase by phase, and how often memory runs out.

The recipes' own budgets, optimizer and checkpointing. A rollout batch is as full as the recipe's budget allows; its
prompts are longer and its completions shorter than the recipe's, of the same length together: the cache grows as large
in a sixteenth of the time. The update fills two micro-batches, since the second one finds the gradient of the first
there. Where memory runs out, the attempt is a row, and the next attempt has half the budget, as in a run. Later steps
start where the one before came to, as in a run.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from benchmarks.flops import Lengths
from benchmarks.gpu_sections import kit
from benchmarks.gpu_sections.device import read_peak, start_peak, synchronise
from benchmarks.gpu_sections.kit import Steps
from benchmarks.gpu_sections.records import OK, OUT_OF_MEMORY, Row, Setting
from benchmarks.gpu_sections.rollout import generate
from benchmarks.gpu_sections.trial import free_memory, measured, require_seconds
from benchmarks.groups import draw_group, draw_prompt
from benchmarks.models import QWEN2_5_VL_3B, QWEN2_VL_2B, ModelShape
from gpg_vl.config import Recipe
from gpg_vl.models.adapter import Adapter
from gpg_vl.records import TrainingGroup
from gpg_vl.update.packing import shortest_budget

NUM_STEPS = 3
FORCED_TOKENS = 16
SECONDS_OF_PASS = 4.0
"""Left before the deadline, or an update does not begin another pass."""
RECIPES = ((QWEN2_5_VL_3B, "geoqa"), (QWEN2_VL_2B, "lisa"))
PIXELS_PER_TOKEN = 784
TEXT_TOKENS = 88


@dataclass(frozen=True, kw_only=True)
class MemoryRow(Row):
    model: str = ""
    recipe: str = ""
    step: int = 0
    phase: str = ""  # rollout, update, optimizer
    items: str = ""  # what it ran on
    weights: str = ""  # the type that they are computed in
    allocated_mib: float | None = None
    reserved_mib: float | None = None
    micro_batch_tokens: int | None = None  # the budget
    micro_batches: int | None = None
    retries: int | None = None  # of this step, each with half the budget; each is a row before


@dataclass(frozen=True)
class Bench:
    """A recipe on its model."""

    setting: Setting
    steps: Steps
    model: str
    recipe: str
    lengths: Lengths

    def row(
        self,
        step: int,
        phase: str,
        items: str,
        work: Callable[[], dict[str, Any]],
        micro_batch_tokens: int | None = None,
    ) -> MemoryRow:
        identity: dict[str, Any] = {"step": step, "phase": phase, "items": items, "model": self.model}
        identity |= {"recipe": self.recipe, "micro_batch_tokens": micro_batch_tokens}
        identity["weights"] = kit.weights_of(self.steps.adapter)
        return measured(MemoryRow, partial(measure, self.setting, work), name=f"step {step}, {phase}", **identity)


def run(setting: Setting) -> Iterator[MemoryRow]:
    """The larger model first: a section that runs out of time has it."""
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
    bench = Bench(setting, kit.build_steps(shape, recipe, setting.device), shape.name, name,
                  recipe_lengths(recipe, is_tiny=setting.is_tiny))  # fmt: skip
    budget = bench.steps.budget
    for step in range(1, NUM_STEPS + 1):
        prompts = count_prompts(recipe, bench.lengths)
        yield bench.row(step, "rollout", f"{prompts} prompts", partial(roll_out, bench, prompts))
        left = yield from update_rows(bench, step, budget)
        if left is None:
            return  # nothing to step with, now or later
        budget = left
        yield bench.row(step, "optimizer", "", partial(take_step, bench))


def update_rows(bench: Bench, step: int, budget: int) -> Generator[MemoryRow, None, int | None]:
    """A row for each attempt, the next with half the budget, as an update does it.

    Returns:
        the budget that was left, where later steps start; None where there is none
    """
    retries = 0
    while True:
        groups = fill_micro_batches(bench.steps.adapter, bench.lengths, budget)
        work = partial(update, bench, groups, budget, retries)
        row = bench.row(step, "update", describe_groups(groups), work, micro_batch_tokens=budget)
        yield row
        if row.status == OK:
            return budget
        budget, retries = budget // 2, retries + 1
        if row.status != OUT_OF_MEMORY or budget < max(map(shortest_budget, groups)):
            return None


def recipe_lengths(recipe: Recipe, *, is_tiny: bool) -> Lengths:
    """The longest group: an image of the recipe's most pixels, completions of its most tokens."""
    text = 24 if is_tiny else TEXT_TOKENS
    return Lengths(
        recipe.model.max_pixels // PIXELS_PER_TOKEN, text, recipe.rollout.max_new_tokens, recipe.rollout.group_size
    )


def count_prompts(recipe: Recipe, n: Lengths) -> int:
    """Of one rollout batch as full as the recipe allows."""
    tokens = n.group_size * (n.prompt_tokens + n.completion_tokens)
    return max(1, min(recipe.rollout.prompts_per_step, recipe.rollout.tokens_per_batch // tokens))


def fill_micro_batches(adapter: Adapter, n: Lengths, budget: int) -> list[TrainingGroup]:
    """What fills two micro-batches: whole groups, or one group that has to be split, of as many completions as that
    takes."""
    packed = n.prompt_tokens + n.group_size * (n.completion_tokens - 1)
    if packed <= budget:
        return [draw_group(adapter, n, seed) for seed in range(2 * (budget // packed))]
    fitting = max(1, (budget - n.prompt_tokens) // (n.completion_tokens - 1))
    return [draw_group(adapter, replace(n, group_size=min(n.group_size, 2 * fitting)))]


def describe_groups(groups: Sequence[TrainingGroup]) -> str:
    return f"{len(groups)} x {len(groups[0].completions)} completions"


def roll_out(bench: Bench, prompts: int) -> dict[str, Any]:
    n = bench.lengths
    longer = replace(n, text_tokens=n.text_tokens + n.completion_tokens - FORCED_TOKENS)
    adapter = bench.steps.adapter
    built = [draw_prompt(adapter, longer, seed) for seed in range(prompts)]
    try:
        generate(adapter, built, n.group_size, FORCED_TOKENS, lambda step: None)
    finally:
        adapter.model.train()
    return {}


def update(bench: Bench, groups: Sequence[TrainingGroup], budget: int, retries: int) -> dict[str, Any]:
    """
    Raises:
        NotHere: the deadline is too close for another pass
    """
    passes = bench.steps.accumulate(groups, budget, partial(require, bench.setting, SECONDS_OF_PASS))
    return {"retries": retries, "micro_batches": passes}


def take_step(bench: Bench) -> dict[str, Any]:
    bench.steps.take()
    return {}


def require(setting: Setting, seconds: float) -> None:
    if setting.device == "cuda":
        require_seconds(setting, seconds)


def measure(setting: Setting, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    require(setting, 3.0)
    start_peak(setting.device)
    values = work()
    synchronise(setting.device)
    peak = read_peak(setting.device)
    return values | {"allocated_mib": peak.allocated, "reserved_mib": peak.reserved}
