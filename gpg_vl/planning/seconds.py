"""Operations, bytes and kernels of a step -> its seconds on a card, by phase.

A phase takes as long as its products, its traffic with the card's memory, and the exchange between cards one after the
other; or as its kernels take to be launched, where that is longer. The constants are estimates of achieved rates: no
GPU has been measured for them (docs/scale.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gpg_vl.config import Recipe
from gpg_vl.planning.cards import Card
from gpg_vl.planning.engines import engine_seconds
from gpg_vl.planning.layouts import (
    CARDS_PER_MACHINE,
    FLOAT,
    ROUNDED,
    Size,
    gathered_bytes,
    num_sharing,
    rounds_weights,
)
from gpg_vl.planning.live_memory import ACTIVATIONS, CACHE, VISION
from gpg_vl.planning.memory import Runs
from gpg_vl.planning.trial_groups import samples_groups, share_of
from gpg_vl.processes.sharding import LayoutName, Sharding

TRAFFIC = 4
"""How often what is kept for the backward pass moves: written and read, there and back."""
LINK = {True: 300e9, False: 40e9}
"""Bytes per second and card, within a machine and between machines."""
HOST = 100e9
"""Bytes per second of a machine's memory, which the steps of all its cards share; it takes many threads."""
BUS = 25e9
"""Bytes per second and card between its memory and the host's."""
DISK = 0.9e9
"""Bytes per second of one process that writes and hashes a checkpoint."""
IMAGE_SECONDS = 0.034
"""To open and size one picture of 2 megapixels on one core."""


@dataclass(frozen=True, slots=True)
class StepWork:
    """Of one rank in a step; operations as ``update.flops`` counts them, None for a mixture of experts."""

    rollout_flops: float | None
    update_flops: float | None
    images: float


def seconds_of(
    recipe: Recipe,
    size: Size,
    runs: Runs,
    work: StepWork,
    card: Card,
    layout: LayoutName,
    num_ranks: int,
    of_machine: int = CARDS_PER_MACHINE,
) -> dict[str, float]:
    """By phase, of the rank that has most; ``checkpoint`` is its share of a step.

    Args:
        of_machine: ranks of each machine
    """
    rate = card.products(recipe.model.dtype)
    width = ROUNDED if rounds_weights(layout, recipe.model) else FLOAT
    rounding = 0 if width == FLOAT else FLOAT + width  # reads masters, writes weights
    stepped = card.step_traffic * FLOAT + rounding
    if not samples_groups(recipe):
        rollout = 0.0
    elif recipe.rollout.samples_elsewhere:
        rollout = engine_seconds(recipe, size, work.rollout_flops, card, rate, num_ranks, DISK)
    else:
        rollout = _rollout(recipe, runs, work, card, rate, gathered_bytes(layout, size, width))
    exchange = _exchange(size, runs, layout, num_ranks, width, of_machine)
    bandwidth = _bandwidth(card, layout, min(num_ranks, of_machine))
    return {
        "data": work.images * IMAGE_SECONDS,
        "rollout": rollout,
        "update": _update(recipe, runs, work, card, rate),
        "exchange": exchange + _over_bus(size, runs, layout, num_ranks),
        "step": stepped * size.trained / bandwidth / num_sharing(layout, num_ranks, of_machine),
        "checkpoint": checkpoint_bytes(recipe, size) / DISK / recipe.run.save_every,
    }


def _rollout(recipe: Recipe, runs: Runs, work: StepWork, card: Card, rate: float, weights: int) -> float:
    """Prefill, then as many steps as the longest completion has tokens, whatever the others have: the long tail."""
    cached = runs.rollout.peak.parts.get(CACHE, 0)
    step = card.run(runs.rollout.kernels, (weights + cached) / card.bandwidth)
    return runs.rollout.count * recipe.rollout.max_new_tokens * step + (work.rollout_flops or 0.0) / rate


def _update(recipe: Recipe, runs: Runs, work: StepWork, card: Card, rate: float) -> float:
    again = 4 / 3 if recipe.model.gradient_checkpointing else 1.0
    kept = sum(runs.update.peak.without_gradients.get(part, 0) for part in (ACTIVATIONS, VISION))
    computed = (work.update_flops or 0.0) * again / rate + runs.update.count * TRAFFIC * kept / card.bandwidth
    return card.run(runs.update.count * runs.update.kernels, computed)


def _exchange(size: Size, runs: Runs, layout: LayoutName, num_ranks: int, width: int, of_machine: int) -> float:
    """Gradients once a step, or in each pass where they are sharded; weights that are, in each pass and for a rollout.

    Args:
        width: bytes of a weight that is gathered for a pass
    """
    if num_ranks == 1:
        return 0.0
    link = LINK[num_ranks <= of_machine]
    gradients, weights = FLOAT * size.trained / link, width * size.weights / link
    gathered = gathered_bytes(layout, size, width) / link
    if layout == "hsdp" and num_ranks > of_machine:  # between machines, a rank's share of the gradients alone
        between = 2 * gradients / of_machine
        gradients = gradients * link / LINK[True] + between
        weights, gathered = (each * link / LINK[True] for each in (weights, gathered))
    if layout in ("none", "zero1"):
        return 2 * gradients
    if layout == "zero2":
        return runs.update.count * gradients + gradients
    return runs.update.count * (gradients + 2 * weights) + gathered


def _over_bus(size: Size, runs: Runs, layout: LayoutName, num_ranks: int) -> float:
    """A rank's share of the weights on its way to the card, in each pass and for a rollout; of the gradients, back."""
    if not Sharding(layout).keeps_shards_on_host:
        return 0.0
    weights, gradients = FLOAT * size.weights / num_ranks / BUS, FLOAT * size.trained / num_ranks / BUS
    return runs.update.count * (2 * weights + gradients) + weights


def _bandwidth(card: Card, layout: LayoutName, num_on_host: int) -> float:
    """Of the memory that the optimizer's step reads and writes.

    Args:
        num_on_host: ranks that share a machine's memory
    """
    return HOST / num_on_host if Sharding(layout).steps_on_host else card.bandwidth


def checkpoint_bytes(recipe: Recipe, size: Size) -> int:
    """Weights, those of the adapter alone if there is one, and two moments of the trained ones."""
    saved = size.weights if recipe.model.lora is None else size.trained
    return FLOAT * saved + 2 * FLOAT * size.trained


def work_of(flops: tuple[float, float] | None, recipe: Recipe, num_ranks: int, num_images: float) -> StepWork:
    """
    Args:
        flops: of a group, in the rollout and in the update
    """
    num = share_of(recipe.rollout.prompts_per_step, num_ranks)
    rollout, update = (None, None) if flops is None else (num * flops[0], num * flops[1])
    return StepWork(rollout, update, num * num_images)


def total(seconds: Mapping[str, float]) -> float:
    return sum(seconds.values())
