"""What the phases of a step take of a GPU, by part, and the largest budgets that fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from gpg_vl.config import Recipe
from gpg_vl.models.adapter import Adapter
from gpg_vl.objectives import build_objective
from gpg_vl.planning.engines import samples_elsewhere
from gpg_vl.planning.layouts import (
    CARDS_PER_MACHINE,
    FLOAT,
    SHARDED_GRADIENTS,
    Size,
    State,
    rounds_weights,
    state_of,
)
from gpg_vl.planning.live_memory import GRADIENTS, Peak
from gpg_vl.planning.rows import PromptLengths
from gpg_vl.planning.shapes import Pass, Shapes
from gpg_vl.planning.trial_groups import longest_groups, prompts_at_once, share_of
from gpg_vl.preflight.rewards import learned_names
from gpg_vl.processes.sharding import LayoutName, Sharding
from gpg_vl.update.fsdp import find_blocks
from gpg_vl.update.packing import shortest_budget

INITIAL = "initial model"
_ELSEWHERE = Pass(Peak({}), tokens=0, kernels=0, count=0)


@dataclass(frozen=True, slots=True)
class Runs:
    """A recipe's phases on shapes, for a number of ranks; of the layout they depend on ``rounds_weights`` alone."""

    rollout: Pass
    update: Pass


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a rank by phase and part."""

    phases: Mapping[str, Mapping[str, int]]
    host: int  # of all ranks of a machine with one rank: what a layout keeps outside of the GPU

    @property
    def peak(self) -> int:
        return self.bytes_of(self.largest_phase)

    @property
    def largest_phase(self) -> str:
        return max(self.phases, key=self.bytes_of)

    def bytes_of(self, phase: str) -> int:
        return sum(self.phases[phase].values())


def size_of(adapter: Adapter) -> Size:
    weights, trained = adapter.num_parameters()
    blocks = [sum(p.numel() for p in block.parameters()) for block in find_blocks(adapter.model)]
    largest = max(p.numel() for _, p in adapter.trainable_parameters())
    return Size(weights, trained, largest, max(blocks, default=0), weights - sum(blocks))


def run_phases(recipe: Recipe, adapter: Adapter, rows: PromptLengths, num_ranks: int, *, on_gpu: bool = True) -> Runs:
    shapes, config = Shapes(recipe, adapter, on_gpu=on_gpu), recipe.rollout
    num = share_of(config.prompts_per_step, num_ranks)
    together = prompts_at_once(config, len(rows.worst.encoded.token_ids), num)
    rollout = _ELSEWHERE if samples_elsewhere(config) else shapes.rollout(
        rows.worst.encoded, together, -(-num // together))  # fmt: skip
    return Runs(rollout, shapes.update(longest_groups(rows.worst, config, adapter, num)))


def memory_of(
    recipe: Recipe,
    size: Size,
    runs: Runs,
    layout: LayoutName,
    num_ranks: int,
    *,
    on_gpu: bool = True,
    of_machine: int = CARDS_PER_MACHINE,
    engine: int = 0,
) -> Memory:
    """
    Args:
        of_machine: ranks of each machine
        engine: bytes of another rollout engine on the same card (``engines.engine_bytes``)
    """
    is_rounded = rounds_weights(layout, recipe.model)
    state = state_of(
        layout, size, num_ranks, recipe.update.optimizer, on_gpu=on_gpu, is_rounded=is_rounded, of_machine=of_machine
    )
    initial, stays = _initial_bytes(recipe, size), Sharding(layout).keeps_whole_weights
    always = {"weights": state.weights, "optimizer": state.optimizer, INITIAL: initial if stays else 0}
    used = {"gathered weights": state.gathered, INITIAL: 0 if stays else initial, "vLLM": engine}
    phases = {
        "rollout": _add(always, used, runs.rollout.peak.parts),
        "update": _add(always, _update_parts(state, runs.update, layout)),
        "step": _add(always, {GRADIENTS: state.gradients, "buffers": state.step + state.buffers}),
    }
    if is_rounded:  # for the self-check the weights are widened, or gathered as they are stored
        gathered = FLOAT * size.weights - (state.weights if Sharding(layout).keeps_whole_weights else 0)
        phases["check"] = _add(always, {"weights": gathered})
    return Memory(phases, (state.host + (0 if stays else initial)) * num_ranks)


def _update_parts(state: State, update: Pass, layout: LayoutName) -> Mapping[str, int]:
    if layout not in SHARDED_GRADIENTS:
        return _add({"buffers": state.buffers}, update.peak.parts)
    return _add({GRADIENTS: state.gradients, "buffers": state.buffers}, update.peak.without_gradients)


def _add(*several: Mapping[str, int]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for parts in several:
        total.update(parts)
    return {name: size for name, size in total.items() if size > 0}


def keeps_initial_model(recipe: Recipe) -> bool:
    """Whether a second model is kept: where the objective or a learned reward reads it, and it is no adapter's base."""
    objective = build_objective(recipe.objective, recipe.rollout.max_new_tokens, recipe.reuses_rollouts)
    is_read = "reference" in objective.needs or bool(learned_names(recipe))
    return is_read and recipe.model.lora is None


def _initial_bytes(recipe: Recipe, size: Size) -> int:
    """With linear layers in the compute type. Where weights are shared it is on the host, and here while it runs."""
    if not keeps_initial_model(recipe):
        return 0
    return size.weights * (2 if recipe.model.dtype == "bfloat16" else FLOAT)


@dataclass(frozen=True, slots=True)
class Budgets:
    """The largest that fit; None where not even the smallest does."""

    update: int | None
    rollout: int | None  # None too where another engine samples, which has no such budget


def run_smallest(recipe: Recipe, adapter: Adapter, rows: PromptLengths, num_ranks: int, times: int = 1) -> Runs:
    """With budgets that hold one group in the rollout, and a prompt with one completion in the update.

    Args:
        times: of both budgets
    """
    shapes, config = Shapes(recipe, adapter), recipe.rollout
    num = share_of(config.prompts_per_step, num_ranks)
    groups = longest_groups(rows.worst, config, adapter, max(num, 2))
    rollout = _ELSEWHERE if samples_elsewhere(config) else shapes.rollout(
        rows.worst.encoded, times, -(-num // times))  # fmt: skip
    return Runs(rollout, shapes.update(groups, times * shortest_budget(groups[0])))


def largest_budgets(
    recipe: Recipe,
    adapter: Adapter,
    rows: PromptLengths,
    layout: LayoutName,
    num_ranks: int,
    usable: int,
    of_machine: int = CARDS_PER_MACHINE,
) -> Budgets:
    """By a line through what the smallest budgets take and what three times as much takes: both grow with tokens."""
    size = size_of(adapter)
    small, large = (run_smallest(recipe, adapter, rows, num_ranks, times) for times in (1, 3))

    def phase(runs: Runs, name: str) -> int:
        return memory_of(recipe, size, runs, layout, num_ranks, of_machine=of_machine).bytes_of(name)

    update = _fitting(small.update.tokens, phase(small, "update"), large.update.tokens, phase(large, "update"), usable)
    if samples_elsewhere(recipe.rollout):
        return Budgets(update, None)
    rollout = _fitting(
        small.rollout.tokens, phase(small, "rollout"), large.rollout.tokens, phase(large, "rollout"), usable
    )
    return Budgets(update, rollout)


def _fitting(small: int, small_bytes: int, large: int, large_bytes: int, usable: int) -> int | None:
    if small_bytes > usable:
        return None
    more = (usable - small_bytes) * (large - small) // max(1, large_bytes - small_bytes)
    return small + max(0, more)
