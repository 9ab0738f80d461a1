"""A recipe of few small steps on drawn counting scenes, and rewards that a random model can learn from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data_tools.generate import draw_samples
from gpg_vl.config import Recipe
from gpg_vl.data.sources import write_parquet
from tests.support.scripted_rewards import noise, score_by
from tests.support.small_recipes import MakeRecipe, small_recipe


@pytest.fixture
def make_recipe(tmp_path: Path, model_folders: dict[str, Path]) -> MakeRecipe:
    """Three steps of four prompts; ``key=value`` with ``__`` for the dot overrides."""
    data = tmp_path / "counting.parquet"
    write_parquet(draw_samples("counting", 24, seed=0), data)
    values = {
        "model.path": str(model_folders["qwen2_vl"]),
        "data.train": [str(data)],
        "rollout.prompts_per_step": 4,
        "rollout.group_size": 3,
        "rollout.max_new_tokens": 6,
        "update.learning_rate": 1e-3,
        "run.steps": 3,
        "run.output_dir": str(tmp_path / "run"),
    }

    def make(**overrides: Any) -> Recipe:
        return small_recipe(values, overrides)

    return make


@pytest.fixture
def noisy_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    score_by(monkeypatch, lambda sample, text: noise(text))
