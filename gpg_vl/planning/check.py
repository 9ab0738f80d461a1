"""The start of a run on CUDA, before its weights are loaded: what cannot fit is refused, and budgets are chosen.

A budget of the default is replaced by the largest that fits into the memory that is free, by the same model as ``gpg-vl
plan``. One that was set by hand is kept, and refused where it does not fit: who has chosen it wants it. So are those of
a deterministic run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import NoReturn

import psutil
import torch
from accelerate import Accelerator

from gpg_vl.config import Recipe, RolloutConfig, UpdateConfig
from gpg_vl.models.adapter import Adapter
from gpg_vl.planning.cards import Card, card_here
from gpg_vl.planning.layouts import Size, rounds_weights
from gpg_vl.planning.memory import (
    Budgets,
    Memory,
    largest_budgets,
    run_phases,
    run_smallest,
    size_of,
    smallest_budgets,
)
from gpg_vl.planning.plan import (
    Fitting,
    Machine,
    cheapest_layout,
    describe_host_lack,
    describe_lack,
    memory_on,
    read_rows,
)
from gpg_vl.planning.rows import PromptLengths
from gpg_vl.planning.trial_groups import with_trained_groups
from gpg_vl.planning.without_weights import load_shapes
from gpg_vl.preflight.sources import CheckedSources
from gpg_vl.processes.collectives import gather_object
from gpg_vl.processes.ranks import run_together
from gpg_vl.processes.sharding import sharding_of
from gpg_vl.processes.start import ranks_of_node
from gpg_vl.run.speed import GIB

_MOST_ROWS = 512
"""All rows are read later; the start need not read them twice."""
SHARE = 0.85
"""Of the usable memory, what a chosen budget may take: a plan's peak is right to 15 % (docs/scale.md)."""
_UPDATE, _ROLLOUT = "update.tokens_per_micro_batch", "rollout.tokens_per_batch"
_PHASES = {_UPDATE: "update", _ROLLOUT: "rollout"}
"""What each budget bounds."""


@dataclass(frozen=True, slots=True)
class Fit:
    budgets: Budgets  # of the run: set by hand, or chosen; None where another engine samples
    text: str  # a line about what was found


def machine_here(accelerator: Accelerator) -> Machine:
    """The cards of a run's ranks: this one's, with what is free on all and in their machines. All ranks together."""
    device = accelerator.device
    free, hosts, ranks = zip(*gather_object([run_together(lambda: _find_room(device))]), strict=True)
    card, layout = replace(card_here(device), free=min(free)), sharding_of(accelerator).name
    return Machine(card, accelerator.num_processes, layout, max(ranks), hosts[0], min(hosts))


def _find_room(device: torch.device) -> tuple[int, int, int]:
    """Bytes that are free on this rank's card and in its machine's memory, and how many ranks share that."""
    return torch.cuda.mem_get_info(device)[0], psutil.virtual_memory().available, ranks_of_node()


def fit_run(recipe: Recipe, path: str, checked: Sequence[CheckedSources], machine: Machine) -> Fit:
    """
    Args:
        path: of the model, or of the checkpoint that the run goes on from

    Raises:
        NotOnShapes: the model's code looks at values, so nothing can be said
        ValueError: it cannot fit; one line with the keys to change
    """
    recipe = with_trained_groups(recipe)
    load = cache(partial(load_shapes, replace(recipe.model, path=path)))
    adapter = load(rounds_weights(machine.layout, recipe.model))
    rows = read_rows(recipe, checked, adapter, _MOST_ROWS)
    size, usable = size_of(adapter), machine.card.usable
    budgets = _choose_budgets(recipe, adapter, rows, machine)
    runs = run_phases(with_budgets(recipe, budgets), adapter, rows, machine.num_gpus)
    memory = memory_on(machine, recipe, size, runs)
    if memory.peak > usable:
        _refuse_lack(recipe, adapter, rows, machine, load)
        for key in _kept(recipe):
            if memory.bytes_of(_PHASES[key]) > usable:
                largest = _largest_here(recipe, adapter, rows, machine, usable)
                _refuse_budget(key, memory, largest, machine.card, may_choose=not recipe.run.deterministic)
    if not machine.has_host_for(memory):
        cheapest = _cheapest(recipe, size, rows, machine, load)
        raise ValueError(describe_host_lack(recipe, memory, machine, cheapest))
    return Fit(budgets, _describe(memory, machine.card, budgets))


def _largest_here(recipe: Recipe, adapter: Adapter, rows: PromptLengths, machine: Machine, usable: int) -> Budgets:
    return largest_budgets(
        recipe, adapter, rows, machine.layout, machine.num_gpus, usable, of_machine=machine.of_machine
    )


def _refuse_lack(
    recipe: Recipe, adapter: Adapter, rows: PromptLengths, machine: Machine, load: Callable[[bool], Adapter]
) -> None:
    """
    Raises:
        ValueError: not even the smallest budgets fit
    """
    size, num = size_of(adapter), machine.num_gpus
    least = memory_on(machine, recipe, size, run_smallest(recipe, adapter, rows, num))
    if least.peak > machine.card.usable:
        cheapest = _cheapest(recipe, size, rows, machine, load)
        raise ValueError(describe_lack(recipe, least, machine, cheapest, Budgets(None, None)))


def _cheapest(
    recipe: Recipe, size: Size, rows: PromptLengths, machine: Machine, load: Callable[[bool], Adapter]
) -> Fitting | None:
    """With the smallest budgets."""
    return cheapest_layout(
        recipe, size, lambda rounded: run_smallest(recipe, load(rounded), rows, machine.num_gpus), machine
    )


def with_budgets(recipe: Recipe, budgets: Budgets) -> Recipe:
    """The recipe with those that are not None."""
    update, rollout = recipe.update, recipe.rollout
    if budgets.update is not None:
        update = replace(update, tokens_per_micro_batch=budgets.update)
    if budgets.rollout is not None:
        rollout = replace(rollout, tokens_per_batch=budgets.rollout)
    return replace(recipe, update=update, rollout=rollout)


def _choose_budgets(recipe: Recipe, adapter: Adapter, rows: PromptLengths, machine: Machine) -> Budgets:
    """Those set by hand, and else the largest that fit with room for what a plan may be off, or the smallest."""
    kept = set(_kept(recipe))
    update: int | None = recipe.update.tokens_per_micro_batch
    rollout: int | None = recipe.rollout.tokens_per_batch
    if kept < _PHASES.keys():
        usable = int(SHARE * machine.card.usable)
        largest = _largest_here(recipe, adapter, rows, machine, usable)
        smallest = smallest_budgets(recipe, adapter, rows, machine.num_gpus)
        update = update if _UPDATE in kept else largest.update or smallest.update
        rollout = rollout if _ROLLOUT in kept else largest.rollout or smallest.rollout
    return Budgets(update, None if recipe.rollout.samples_elsewhere else rollout)


def _describe(memory: Memory, card: Card, budgets: Budgets) -> str:
    named = {_UPDATE: budgets.update, _ROLLOUT: budgets.rollout}
    chosen = " and ".join(f"{key} {tokens}" for key, tokens in named.items() if tokens is not None)
    return f"plan: {memory.peak / GIB:.1f} of {card.usable / GIB:.1f} GiB at the worst moment, with {chosen}"


def _kept(recipe: Recipe) -> Iterator[str]:
    """Budgets that are not the default; of a deterministic run both, for other budgets round in another way."""
    if recipe.run.deterministic or recipe.update.tokens_per_micro_batch != UpdateConfig().tokens_per_micro_batch:
        yield _UPDATE
    if recipe.run.deterministic or recipe.rollout.tokens_per_batch != RolloutConfig().tokens_per_batch:
        yield _ROLLOUT


def _refuse_budget(key: str, memory: Memory, budgets: Budgets, card: Card, *, may_choose: bool) -> NoReturn:
    phase = _PHASES[key]
    fitting = budgets.update if phase == "update" else budgets.rollout
    needed, usable = memory.bytes_of(phase) / GIB, card.usable / GIB
    way_out = ", or leave it out: the default is what fits" if may_choose else ""
    raise ValueError(
        f"{key}: with it the {phase} needs {needed:.2f} GiB, and {card.name} has {usable:.2f} GiB for it; lower it to "
        f"{fitting}{way_out}"
    )
