"""What the phases of a step take of a GPU, by part, and the largest budgets that fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from gpg_vl.config import Recipe
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.weights.compute_types import cast_weights
from gpg_vl.objectives import build_objective
from gpg_vl.planning.layouts import (
    CARDS_PER_MACHINE,
    FLOAT,
    FOUR_BITS,
    ROUNDED,
    SHARDED_GRADIENTS,
    Size,
    StateBytes,
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
from gpg_vl.update.reference import needs_copy

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
    host: int  # of the first machine, all ranks together: what they keep outside of the GPUs, or all weights while read
    kept: int = 0  # of each other machine, which reads none

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
    size = Size(weights, trained, largest, max(blocks, default=0), weights - sum(blocks))
    layers = adapter.quantized_layers() if adapter.config.is_quantized else []
    found, coded = [layer.weight.numel() for layer in layers], {id(layer) for layer in layers}
    lent, shared = (
        [sum(p.numel() for p in layer.parameters(recurse=False)) for layer in each if id(layer) not in coded]
        for each in (adapter.lent_layers(), adapter.lent_layers(with_trained=True))
    )
    cast = sum(each.numel() for each in cast_weights(adapter).values()) if adapter.config.dtype == "bfloat16" else 0
    return replace(
        size, lent=sum(lent), largest_lent=max(lent, default=0),
        shared_lent=sum(shared), largest_shared_lent=max(shared, default=0),
        quantized=sum(found), largest_quantized=max(found, default=0), cast=cast,
    )  # fmt: skip


def run_phases(recipe: Recipe, adapter: Adapter, rows: PromptLengths, num_ranks: int, *, on_gpu: bool = True) -> Runs:
    shapes, config = Shapes(recipe, adapter, on_gpu=on_gpu), recipe.rollout
    num = share_of(config.prompts_per_step, num_ranks)
    together = prompts_at_once(config, len(rows.worst.encoded.token_ids), num)
    rollout = _ELSEWHERE if config.samples_elsewhere else shapes.rollout(
        rows.worst.encoded, together, -(-num // together))  # fmt: skip
    return Runs(rollout, shapes.update(longest_groups(rows.worst, config, adapter, num)))


def memory_of(
    recipe: Recipe,
    size: Size,
    runs: Runs,
    layout: LayoutName,
    num_ranks: int,
    *,
    of_machine: int = CARDS_PER_MACHINE,
    engine: int = 0,
) -> Memory:
    """
    Args:
        of_machine: ranks of each machine
        engine: bytes of another rollout engine on the same card (``engines.engine_bytes``)
    """
    is_rounded = rounds_weights(layout, recipe.model)
    state = state_of(layout, size, num_ranks, recipe.update.optimizer, is_rounded=is_rounded, of_machine=of_machine)
    initial, stays = _initial_bytes(recipe, size), Sharding(layout).keeps_whole_weights
    always = {"weights": state.weights, "optimizer": state.optimizer, INITIAL: initial if stays else 0}
    layer = {"dequantized layer": (ROUNDED if is_rounded else FLOAT) * size.largest_quantized}
    used = {"gathered weights": state.gathered, INITIAL: 0 if stays else initial, "vLLM": engine, **layer}
    phases = {
        "rollout": _add(always, used, runs.rollout.peak.parts),
        "update": _add(always, layer, _update_parts(state, runs.update, layout)),
        "step": _add(always, {GRADIENTS: state.gradients, "buffers": state.step + state.buffers}),
    }
    if is_rounded or not stays:
        widened = _widened_bytes(size, recipe.model.dtype, is_shared=not stays)
        phases["check"] = _add(always, {"weights": widened - state.weights if stays else widened})
    kept = min(num_ranks, of_machine) * (state.host + (0 if stays else initial))
    read = max(kept, FLOAT * size.weights)  # by the first rank, which gives the weights away
    return Memory(phases, read, kept)


def _widened_bytes(size: Size, dtype: str, *, is_shared: bool) -> int:
    """Of the weights that the self-check computes with in float32; layers of the text model are widened one at a time.

    Args:
        dtype: ``model.dtype``
        is_shared: the weights are gathered for it
    """
    whole = FLOAT * (size.weights - size.quantized + size.largest_quantized) + round(FOUR_BITS * size.quantized)
    if dtype != "bfloat16":
        return whole
    lent, largest = (size.shared_lent, size.largest_shared_lent) if is_shared else (size.lent, size.largest_lent)
    return whole - (FLOAT - ROUNDED) * lent + FLOAT * largest


def _update_parts(state: StateBytes, update: Pass, layout: LayoutName) -> Mapping[str, int]:
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
    return is_read and needs_copy(recipe.model)


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


def run_smallest(recipe: Recipe, adapter: Adapter, rows: PromptLengths, num_ranks: int) -> Runs:
    """With budgets that hold one group in the rollout, and a prompt with one completion in the update."""
    phases = _Phases(recipe, adapter, rows, num_ranks)
    rollout = _ELSEWHERE if recipe.rollout.samples_elsewhere else phases.rollout(phases.least_rollout)
    return Runs(rollout, phases.update(phases.least_update))


def smallest_budgets(recipe: Recipe, adapter: Adapter, rows: PromptLengths, num_ranks: int) -> Budgets:
    """Those of ``run_smallest``."""
    phases = _Phases(recipe, adapter, rows, num_ranks)
    return Budgets(phases.least_update, phases.least_rollout)


class _Phases:
    """The phases of a recipe on shapes by their budgets, with as many groups as make two micro-batches."""

    def __init__(self, recipe: Recipe, adapter: Adapter, rows: PromptLengths, num_ranks: int):
        self._shapes = Shapes(recipe, adapter)
        self._num = share_of(recipe.rollout.prompts_per_step, num_ranks)
        self._prompt = rows.worst.encoded
        self._groups = partial(longest_groups, rows.worst, recipe.rollout, adapter)
        [group] = self._groups(1)
        prompt, size = len(self._prompt.token_ids), recipe.rollout.group_size
        self.least_update, self.least_rollout = shortest_budget(group), size * (prompt + recipe.rollout.max_new_tokens)
        new = self.least_update - prompt
        self._group_tokens = prompt + size * new if recipe.update.pack else size * self.least_update
        self.most_update, self.most_rollout = self._num * self._group_tokens, self._num * self.least_rollout

    def update(self, tokens: int) -> Pass:
        return self._shapes.update(self._groups(max(self._num, tokens // self._group_tokens + 2)), tokens)

    def rollout(self, tokens: int) -> Pass:
        together = max(1, tokens // self.least_rollout)
        return self._shapes.rollout(self._prompt, together, -(-self._num // together))


def largest_budgets(
    recipe: Recipe,
    adapter: Adapter,
    rows: PromptLengths,
    layout: LayoutName,
    num_ranks: int,
    usable: int,
    of_machine: int = CARDS_PER_MACHINE,
) -> Budgets:
    """Up to those with which a step is one micro-batch, and a draw one batch.

    Args:
        usable: bytes of a rank
    """
    size, phases = size_of(adapter), _Phases(recipe, adapter, rows, num_ranks)

    def bytes_of(phase: str, runs: Runs) -> int:
        return memory_of(recipe, size, runs, layout, num_ranks, of_machine=of_machine).bytes_of(phase)

    def of_update(tokens: int) -> int:
        return bytes_of("update", Runs(_ELSEWHERE, phases.update(tokens)))

    def of_rollout(tokens: int) -> int:
        return bytes_of("rollout", Runs(phases.rollout(tokens), _ELSEWHERE))

    update = _largest(of_update, phases.least_update, phases.most_update, usable)
    if recipe.rollout.samples_elsewhere:
        return Budgets(update, None)
    return Budgets(update, _largest(of_rollout, phases.least_rollout, phases.most_rollout, usable))


def _largest(bytes_at: Callable[[int], int], least: int, most: int, usable: int) -> int | None:
    """About the largest budget that fits: by a line through the smallest and one beyond, and what is found is tried.

    Memory grows with tokens or, under a dense mask, faster; then a line from beyond falls short, and fits.

    Args:
        bytes_at: what a budget takes
    """
    least_bytes, beyond = bytes_at(least), 3 * least
    if least_bytes > usable:
        return None
    tokens = min(most, _on_line(least, least_bytes, beyond, bytes_at(beyond), usable))
    while tokens > least and (found := bytes_at(tokens)) > usable:
        tokens = min(_on_line(least, least_bytes, tokens, found, usable), int(0.9 * tokens))
    return max(tokens, least)


def _on_line(small: int, small_bytes: int, large: int, large_bytes: int, usable: int) -> int:
    """Where a line through two budgets reaches what is usable."""
    return small + (usable - small_bytes) * (large - small) // max(1, large_bytes - small_bytes)
