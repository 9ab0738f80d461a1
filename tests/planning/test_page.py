"""What a plan says of a machine's memory, and of a card that is not known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gpg_vl.config import DataConfig, Recipe
from gpg_vl.data.sources import write_parquet
from gpg_vl.planning.cards import CARDS
from gpg_vl.planning.page import describe_plan
from gpg_vl.planning.plan import Machine, make_plan
from gpg_vl.preflight.sources import load_all_sources
from tests.support.builders import make_sample
from tests.support.plans import variant_of

CARD = CARDS["l4-24"]


@pytest.fixture
def recipe(model_folders: dict[str, Path], tmp_path: Path) -> Recipe:
    write_parquet([make_sample(((200, 200),))], tmp_path / "rows.parquet")
    data = DataConfig(train=[str(tmp_path / "rows.parquet")])
    recipe = variant_of(model_folders["qwen2_vl"], "full")
    return replace(recipe, data=data, run=replace(recipe.run, output_dir="runs/mine"))


def described(recipe: Recipe, machine: Machine) -> str:
    lines = describe_plan(make_plan(recipe, load_all_sources(recipe), machine))
    assert [line for line in lines if len(line) > 80] == []
    return "\n".join(lines)


def test_memory_of_a_machine_is_said_or_compared(recipe: Recipe) -> None:
    told = described(recipe, Machine(CARD, 1, "none"))
    assert "\nfits " in told and "--host-gb" in told
    told = described(recipe, Machine(CARD, 1, "none", host=64 * 10**9))
    assert "\nfits " in told and "of 64.00 GB" in told and "--host-gb" not in told
    told = described(recipe, Machine(CARD, 1, "none", host=1000))
    assert "\ndoes not fit" in told and "\nfits " not in told
    assert "take machines with more memory" in " ".join(told.split()) and "no layout fits" in told


def test_borrowed_rates_are_said(recipe: Recipe) -> None:
    card = replace(CARD, name="NVIDIA Other", likened_to=CARD.name)
    assert f"rates of {CARD.name}" in described(recipe, Machine(card, 1, "none"))
    assert "rates of" not in described(recipe, Machine(CARD, 1, "none"))
