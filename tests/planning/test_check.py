"""What cannot fit is refused before the weights are loaded, in one line with the key to change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gpg_vl.config import DataConfig, Recipe
from gpg_vl.data.sources import write_parquet
from gpg_vl.planning.cards import Card
from gpg_vl.planning.check import check_fits
from gpg_vl.planning.plan import Machine
from gpg_vl.preflight.sources import load_all_sources
from tests.support.builders import make_sample
from tests.support.plans import variant_of


def card(mib: float) -> Card:
    """Of which that much is usable."""
    return Card("card", 1e12, 2**30 + int(mib * 2**20 / 0.95), 1e11)


@pytest.fixture
def recipe(model_folders: dict[str, Path], tmp_path: Path) -> Recipe:
    write_parquet([make_sample(((200, 200),), seed) for seed in range(3)], tmp_path / "rows.parquet")
    data = DataConfig(train=[str(tmp_path / "rows.parquet")])
    return replace(variant_of(model_folders["qwen2_vl"], "full"), data=data)


def test_a_run_that_fits_starts_and_one_that_cannot_is_refused(recipe: Recipe) -> None:
    checked = load_all_sources(recipe)
    assert "of 1.0 GiB" in check_fits(recipe, recipe.model.path, checked, Machine(card(1024), 1, "none"))
    with pytest.raises(ValueError, match=r"(?s)model\.path.*needs.*lora") as error:
        check_fits(recipe, recipe.model.path, checked, Machine(card(8), 1, "none"))
    assert "\n" not in str(error.value)
    assert "zero" not in str(error.value), "nothing is shared on one card, and its smallest budget does not fit there"
