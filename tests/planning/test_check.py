"""What cannot fit is refused before the weights are loaded, in one line with the key to change."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gpg_vl.config import DataConfig, Recipe, RolloutConfig, UpdateConfig
from gpg_vl.data.sources import write_parquet
from gpg_vl.planning import shapes
from gpg_vl.planning.cards import Card
from gpg_vl.planning.check import check_fits
from gpg_vl.planning.plan import Machine
from gpg_vl.planning.shapes import NotOnShapes
from gpg_vl.preflight.sources import load_all_sources
from tests.support.builders import make_sample
from tests.support.messages import naming
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


def test_a_model_that_looks_at_values_says_nothing(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = load_all_sources(recipe)
    monkeypatch.setattr(shapes, "packed_log_probs", lambda *given: torch.zeros(1, device="meta").numpy())
    with pytest.raises(NotOnShapes, match=naming("model.path", "gpg-vl plan --measure")):
        check_fits(recipe, recipe.model.path, checked, Machine(card(1024), 1, "none"))


@pytest.mark.parametrize(
    ("budget", "key"),
    [
        ({"update": UpdateConfig(tokens_per_micro_batch=8000)}, "update.tokens_per_micro_batch"),
        ({"rollout": RolloutConfig(prompts_per_step=16, group_size=64, max_new_tokens=16, tokens_per_batch=65_000)},
         "rollout.tokens_per_batch"),
    ],
    ids=["update", "rollout"],
)  # fmt: skip
def test_a_budget_set_by_hand_that_cannot_fit_is_refused(recipe: Recipe, budget: dict[str, Any], key: str) -> None:
    """With the largest that fits; the default is halved in the run instead."""
    rollout = RolloutConfig(prompts_per_step=16, group_size=64, max_new_tokens=16)
    recipe = replace(recipe, rollout=rollout)
    chosen = replace(recipe, **budget)
    checked = load_all_sources(recipe)
    section, name = key.split(".")

    def check(asked: Recipe, mib: float) -> str:
        return check_fits(asked, asked.model.path, checked, Machine(card(mib), 1, "none"))

    mib = 60.0
    assert "halved" in check(recipe, mib)
    assert "halved" not in check(chosen, 100 * mib)
    with pytest.raises(ValueError, match=naming(key, "card")) as error:
        check(chosen, mib)
    assert "\n" not in str(error.value)
    [fitting] = re.findall(r"lower it to (\d+)", str(error.value))
    fitting = int(0.8 * int(fitting))  # it is found by a line, and a tiny model's dense mask grows faster
    lowered = replace(chosen, **{section: replace(getattr(chosen, section), **{name: fitting})})
    check(lowered, mib)
