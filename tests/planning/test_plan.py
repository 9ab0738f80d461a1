"""The cheapest layout: one that fits, on the cards and in the machines' memory, and that the run does not refuse."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from gpg_vl.config import LoraConfig, ModelConfig, ObjectiveConfig, Recipe, RolloutConfig, UpdateConfig
from gpg_vl.planning.cards import CARDS, Card
from gpg_vl.planning.layouts import Size
from gpg_vl.planning.live_memory import Peak
from gpg_vl.planning.memory import Memory, Runs
from gpg_vl.planning.plan import GB, Fitting, Machine, cheapest_layout, describe_host_lack
from gpg_vl.planning.shapes import Pass
from gpg_vl.run.speed import GIB
from tests.support.messages import naming

SEVEN_B = Size(weights=8_000_000_000, trained=8_000_000_000, largest=544_000_000, block=230_000_000, outside=10**9)
NOTHING = Pass(Peak({}), tokens=0, kernels=0, count=0)
"""So that a rank's weights, gradients and moments are what counts."""
ON_HOST = 16 * SEVEN_B.weights


def recipe_with(**sections: Any) -> Recipe:
    return Recipe(model=sections.pop("model", ModelConfig(path="models/seven")), rollout=RolloutConfig(), **sections)


def cheapest(
    recipe: Recipe, num: int, card: Card = CARDS["h100-80"], of_machine: int = 8, host: float | None = None
) -> Any:
    machine = Machine(card, num, "none", of_machine, None if host is None else int(host))
    return cheapest_layout(recipe, SEVEN_B, lambda is_rounded: Runs(NOTHING, NOTHING), machine)


@pytest.mark.parametrize(
    ("num", "of_machine", "layout"),
    [
        (8, 8, "fsdp"),
        (16, 8, "hsdp"),
        (12, 8, "fsdp"),  # eight and four: a run refuses HSDP
        (12, 6, "hsdp"),
    ],
)
def test_hsdp_is_for_machines_of_as_many_cards(num: int, of_machine: int, layout: str) -> None:
    assert cheapest(recipe_with(), num, of_machine=of_machine).layout == layout


def test_hsdp_of_one_card_a_machine_shares_nothing() -> None:
    """On cards that would hold it, and no copy in bfloat16 besides."""
    card = replace(CARDS["h200-141"], total=int(143e9 / 0.95) + GIB)
    assert cheapest(recipe_with(), 8, card, of_machine=2).layout == "hsdp"
    assert cheapest(recipe_with(), 8, card, of_machine=1).layout == "fsdp"


@pytest.mark.parametrize(
    "keys",
    [
        {"objective": ObjectiveConfig(name="gapo", discriminator_gradient="relaxed")},
        {"update": UpdateConfig(optimizer="adamw_8bit")},
        {"model": ModelConfig(path="models/seven", lora=LoraConfig(quantize="nf4"))},
    ],
    ids=["relaxed samples", "8-bit AdamW", "4-bit base"],
)
def test_no_layout_is_offered_that_the_run_refuses(keys: dict[str, Any]) -> None:
    """On cards that are too small for whole weights: sharing them would fit."""
    assert cheapest(recipe_with(objective=ObjectiveConfig(name="gapo")), 8).layout == "fsdp"
    assert cheapest(recipe_with(**keys), 8) is None
    large = replace(CARDS["h200-141"], total=10**12)
    assert cheapest(recipe_with(**keys), 8, large).layout == "none"


def test_a_layout_that_offloads_needs_the_machines_memory() -> None:
    """Of all its ranks together; with fewer cards of each machine, each has less."""
    found = cheapest(recipe_with(), 1)
    assert (found.layout, found.memory.host) == ("fsdp_offload", ON_HOST)
    assert cheapest(recipe_with(), 1, host=ON_HOST).layout == "fsdp_offload"
    less = cheapest(recipe_with(), 1, host=ON_HOST - 1)
    assert (less.layout, less.memory.host) == ("zero3_offload", 12 * SEVEN_B.weights), "whose weights are on the card"
    assert cheapest(recipe_with(), 1, host=12 * SEVEN_B.weights - 1) is None
    spread = cheapest(recipe_with(), 4, CARDS["a100-40"], of_machine=1)
    assert (spread.layout, spread.memory.host) == ("fsdp_offload", ON_HOST // 4)


def test_every_layout_needs_the_memory_to_read_the_weights() -> None:
    """In float32, by one process of all."""
    found = cheapest(recipe_with(), 8, host=4 * SEVEN_B.weights)
    assert (found.layout, found.memory.host) == ("fsdp", 4 * SEVEN_B.weights)
    assert cheapest(recipe_with(), 8, host=4 * SEVEN_B.weights - 1) is None


def test_a_lack_of_memory_is_one_line_with_the_way_out() -> None:
    machine = Machine(CARDS["h100-80"], 8, "fsdp_offload", host=int(100 * GB))
    needed = Memory({}, int(128 * GB))
    told = describe_host_lack(recipe_with(), needed, machine, Fitting("fsdp", Memory({}, int(32 * GB))))
    parts = ("model.path", "seven", "128.00 GB", "100.00 GB", "fsdp_offload", "use the layout fsdp", "model.lora")
    assert re.search(naming(*parts), told) and "\n" not in told


def test_the_first_machine_alone_needs_room_to_read_the_weights() -> None:
    needed = Memory({}, host=int(128 * GB), kept=int(16 * GB))
    machine = Machine(CARDS["h100-80"], 16, "fsdp", host=int(128 * GB), others=int(32 * GB))
    assert machine.has_host_for(needed)
    assert not machine.has_host_for(replace(needed, kept=int(33 * GB)))
    assert not replace(machine, host=int(127 * GB)).has_host_for(needed)
    told = describe_host_lack(recipe_with(), replace(needed, kept=int(33 * GB)), machine, None)
    assert re.search(naming("33.00 GB", "32.00 GB"), told)
