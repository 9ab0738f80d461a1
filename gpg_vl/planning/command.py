"""``gpg-vl plan``: the plan of a recipe as text, or one step of it measured on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator

from gpg_vl.config import Recipe
from gpg_vl.models import load_adapter
from gpg_vl.planning.cards import CARDS, Card, card_here, find_card
from gpg_vl.planning.measure import measure_step
from gpg_vl.planning.options import PlanOptions
from gpg_vl.planning.page import describe_measured, describe_plan
from gpg_vl.planning.plan import Machine, make_plan, read_rows
from gpg_vl.planning.shapes import NotOnShapes
from gpg_vl.planning.this_cpu import measure_cpu
from gpg_vl.preflight.sources import CheckedSources, load_all_sources
from gpg_vl.preflight.start import check_recipe
from gpg_vl.processes.sharding import Sharding, sharding_of
from gpg_vl.processes.start import start_ranks
from gpg_vl.update.layouts import refuse_layout

DEFAULT_CARD = "h100-80"


def plan_lines(recipe: Recipe, options: PlanOptions) -> list[str]:
    """
    Raises:
        ValueError: there is no such card, or the recipe, its rows or its model cannot be used; one line
    """
    card = _choose_card(options.gpu)
    machine = Machine(card, options.num_gpus, options.layout, options.of_machine, options.host)
    _refuse_uneven(machine)
    refuse_layout(recipe, Sharding(options.layout))
    checked = _read_sources(recipe)
    return _measure(recipe, checked) if options.measures else describe_plan(make_plan(recipe, checked, machine))


def _refuse_uneven(machine: Machine) -> None:
    """
    Raises:
        ValueError: HSDP on machines of different sizes, which a run refuses
    """
    if machine.layout == "hsdp" and not machine.is_even:
        raise ValueError(
            f"--gpus: HSDP needs as many cards on each machine, and {machine.num_gpus} are no whole number of machines "
            f"of {machine.of_machine}; give machines x cards of each, as 2x8, or --sharding fsdp"
        )


def _choose_card(name: str | None) -> Card:
    if name is not None:
        return find_card(name)
    return card_here(torch.device("cuda")) if torch.cuda.is_available() else CARDS[DEFAULT_CARD]


def _measure(recipe: Recipe, checked: Sequence[CheckedSources]) -> list[str]:
    accelerator = start_ranks(on_cpu=recipe.model.device == "cpu")
    sharding = sharding_of(accelerator)
    if not sharding.keeps_whole_weights:
        raise ValueError(f"--measure keeps whole weights, so not under {sharding.title}; set SHARDING=none or zero1")
    adapter = load_adapter(recipe.model)
    rows = read_rows(recipe, checked, adapter)
    if sharding.computes_rounded:
        adapter.round_weights()
    adapter.to(accelerator.device)
    measured = measure_step(recipe, adapter, rows.worst, accelerator)
    return describe_measured(measured, _estimate(recipe, checked, accelerator))


def _estimate(recipe: Recipe, checked: Sequence[CheckedSources], accelerator: Accelerator) -> Mapping[str, float]:
    """The plan's seconds for this machine, by phase; empty where the model does not run on shapes."""
    on_gpu = accelerator.device.type == "cuda"
    dtype = torch.bfloat16 if recipe.model.dtype == "bfloat16" else torch.float32
    card = card_here(accelerator.device) if on_gpu else measure_cpu(dtype)
    try:
        return make_plan(
            recipe, checked, Machine(card, accelerator.num_processes, sharding_of(accelerator).name)
        ).seconds
    except NotOnShapes:
        return {}


def _read_sources(recipe: Recipe) -> list[CheckedSources]:
    check_recipe(recipe)
    return load_all_sources(recipe)
