"""A rollout that several ranks use again: one decision for all of them, in any layout, also after a kill."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gpg_vl.run.run_log import read_metrics
from tests.support.tiny_runs import SECONDS_OF_RANKS, assert_equal_runs, train_ranks, write_recipe_folder

REFRESH = {"trigger": "shift", "threshold": 0.15, "max_uses": 4}

pytestmark = pytest.mark.faults


@pytest.fixture
def folder(tmp_path: Path, model_folders: dict[str, Path]) -> Path:
    """Runs of six steps whose policy crosses the threshold now and then."""
    keys = {
        "rollout": {"refresh": REFRESH},
        "objective": {"name": "grpo", "beta_th": 0.0},
        "update": {"learning_rate": 1e-5, "schedule": "constant"},
        "run": {"steps": 6, "save_every": 1},
    }
    return write_recipe_folder(tmp_path / "runs", model_folders["qwen2_vl"], keys)


@pytest.mark.timeout(4 * SECONDS_OF_RANKS)
@pytest.mark.parametrize(("deepspeed", "num_prompts"), [("zero0", 3), ("zero3", 1)])
def test_ranks_decide_alike_and_as_one_process_does(folder: Path, deepspeed: str, num_prompts: int) -> None:
    """Also where one of them has no group: it gathers the weights with the other."""
    words = ["--rollout.prompts_per_step", str(num_prompts)]
    train_ranks(folder, "alone", "zero0", 1, words)
    train_ranks(folder, "both", deepspeed, 2, words)
    alone, both = (read_metrics(folder / name) for name in ("alone", "both"))
    decisions = [(row["rollout"]["step"], row["rollout"]["uses"]) for row in alone]
    assert [(row["rollout"]["step"], row["rollout"]["uses"]) for row in both] == decisions
    assert 1 < len({step for step, _ in decisions}) < 6, "some rollouts are used again, some are not"
    shifts = [[row["rollout"].get("shift", 0.0) for row in rows] for rows in (alone, both)]
    assert shifts[1] == pytest.approx(shifts[0], rel=1e-3)
    shutil.copytree(folder / "both", folder / "cut")
    for step in range(2, 7):
        shutil.rmtree(folder / f"cut/checkpoint-{step}")
    train_ranks(folder, "cut", deepspeed, 2, words)
    assert_equal_runs(folder / "both", folder / "cut")
