"""The check at the start of a run on CUDA, before its weights are loaded: what cannot fit is refused.

Where memory runs out, a rollout and the update of most layouts go on with half the budget. So a run is refused only if
its smallest budgets do not fit, if its layout ends the run instead, or if a budget other than the default does not: who
has chosen one wants it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import NoReturn

from accelerate import Accelerator

from gpg_vl.config import Recipe, RolloutConfig, UpdateConfig
from gpg_vl.planning.cards import Card, card_here
from gpg_vl.planning.layouts import SHARDED_GRADIENTS, rounds_weights
from gpg_vl.planning.memory import Budgets, Memory, largest_budgets, memory_of, run_phases, run_smallest, size_of
from gpg_vl.planning.plan import Machine, cheapest_layout, describe_lack, read_rows
from gpg_vl.planning.without_weights import load_shapes
from gpg_vl.preflight.sources import CheckedSources
from gpg_vl.processes.sharding import sharding_of
from gpg_vl.run.speed import GIB

_MOST_ROWS = 512
"""All rows are read later; the start need not read them twice."""


def machine_here(accelerator: Accelerator) -> Machine:
    """The cards of a run's ranks, as this one has it."""
    return Machine(card_here(accelerator.device), accelerator.num_processes, sharding_of(accelerator).name)


def check_fits(recipe: Recipe, path: str, checked: Sequence[CheckedSources], machine: Machine) -> str:
    """
    Args:
        path: of the model, or of the checkpoint that the run goes on from

    Returns:
        a line about what was found

    Raises:
        NotOnShapes: the model's code looks at values, so nothing can be said
        ValueError: it cannot fit; one line with the keys to change
    """
    recipe = replace(recipe, model=replace(recipe.model, path=path))
    load = cache(partial(load_shapes, recipe.model))
    adapter = load(rounds_weights(machine.layout, recipe.model))
    rows = read_rows(recipe, checked, adapter, _MOST_ROWS)
    size, usable = size_of(adapter), machine.card.usable
    runs = run_phases(recipe, adapter, rows, machine.num_gpus)
    memory = memory_of(recipe, size, runs, machine.layout, machine.num_gpus)
    found = f"{memory.peak / GIB:.1f} of {usable / GIB:.1f} GiB at the worst moment"
    if memory.peak <= usable:
        return f"plan: {found}"
    smallest, budgets = run_smallest(recipe, adapter, rows, machine.num_gpus), Budgets(None, None)
    if machine.layout in SHARDED_GRADIENTS:  # no smaller budget is tried there
        smallest = replace(smallest, update=runs.update)
        budgets = largest_budgets(recipe, adapter, rows, machine.layout, machine.num_gpus, usable)
    least = memory_of(recipe, size, smallest, machine.layout, machine.num_gpus)
    if least.peak > usable:
        cheapest = cheapest_layout(
            recipe, size, lambda rounded: run_smallest(recipe, load(rounded), rows, machine.num_gpus), machine
        )
        raise ValueError(describe_lack(recipe, least, machine, cheapest, budgets))
    for key in _chosen_budgets(recipe):
        if memory.bytes_of(_PHASES[key]) > usable:
            budgets = largest_budgets(recipe, adapter, rows, machine.layout, machine.num_gpus, usable)
            _refuse_budget(key, memory, budgets, machine.card)
    return f"plan: {found}; the budgets will be halved as memory runs out: gpg-vl plan says which fit"


_PHASES = {"update.tokens_per_micro_batch": "update", "rollout.tokens_per_batch": "rollout"}
"""What each budget bounds."""


def _chosen_budgets(recipe: Recipe) -> Iterator[str]:
    """Those that are not the default."""
    if recipe.update.tokens_per_micro_batch != UpdateConfig().tokens_per_micro_batch:
        yield "update.tokens_per_micro_batch"
    if recipe.rollout.tokens_per_batch != RolloutConfig().tokens_per_batch:
        yield "rollout.tokens_per_batch"


def _refuse_budget(key: str, memory: Memory, budgets: Budgets, card: Card) -> NoReturn:
    phase = _PHASES[key]
    fitting = budgets.update if phase == "update" else budgets.rollout
    needed, usable = memory.bytes_of(phase) / GIB, card.usable / GIB
    raise ValueError(
        f"{key}: with it the {phase} needs {needed:.2f} GiB, and {card.name} has {usable:.2f} GiB for it; lower it to "
        f"{fitting}, or leave it out: the default is halved as memory runs out"
    )
