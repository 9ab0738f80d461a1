"""A run of several ranks that ends in the middle of a rollout goes on with it: bit for bit, or on one process."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from gpg_vl.run.run_log import read_metrics
from tests.support.tiny_runs import SECONDS_OF_RANKS, assert_equal_runs, train_ranks, write_recipe_folder

CUT = 3  # rollouts are drawn in steps 1 and 5

pytestmark = pytest.mark.faults


@pytest.fixture
def folder(tmp_path: Path, model_folders: dict[str, Path]) -> Path:
    """Runs of six steps; each rollout of four groups makes four updates of two."""
    keys = {
        "rollout": {"prompts_per_step": 4},
        "objective": {"name": "grpo", "kl_coefficient": 0.1, "beta_th": 0.0},
        "update": {"epochs_per_rollout": 2, "groups_per_update": 2, "learning_rate": 1e-3, "schedule": "constant"},
        "run": {"steps": 6, "save_every": 1},
    }
    return write_recipe_folder(tmp_path / "runs", model_folders["qwen2_vl"], keys)


def cut_run(folder: Path, name: str) -> None:
    """What a kill in the step after ``CUT`` leaves of the whole run."""
    shutil.copytree(folder / "whole", folder / name)
    for step in range(CUT + 1, 7):
        shutil.rmtree(folder / f"{name}/checkpoint-{step}")


@pytest.mark.timeout(4 * SECONDS_OF_RANKS)
@pytest.mark.parametrize("layout", ["zero0", "fsdp"])
def test_a_rollout_goes_on_after_a_kill_and_on_one_process(folder: Path, layout: str) -> None:
    """On one process, the next update of the same rollout differs by rounding: a step of AdamW is 1e-3."""
    train_ranks(folder, "whole", layout, 2)
    cut_run(folder, "again")
    assert (folder / f"again/checkpoint-{CUT}/training_state/rollout.json").is_file()
    train_ranks(folder, "again", layout, 2)
    assert_equal_runs(folder / "whole", folder / "again")

    cut_run(folder, "alone")
    train_ranks(folder, "alone", "zero0", 1, ["--run.steps", str(CUT + 1)])
    whole, alone = (read_metrics(folder / name)[CUT]["rollout"] for name in ("whole", "alone"))
    assert whole == alone == {"step": 1, "update": 4, "updates": 4}
    expected, found = (
        load_file(folder / f"{name}/checkpoint-{CUT + 1}/model.safetensors") for name in ("whole", "alone")
    )
    assert max(float((found[key] - expected[key]).abs().max()) for key in expected) < 2e-5
