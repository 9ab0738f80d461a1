"""GRPO in whole runs: the KL to the reference, also after a resume."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpg_vl.run.run_log import read_metrics
from gpg_vl.train import train
from gpg_vl.update import learner
from tests.support.scripted_rewards import noise, score_by
from tests.support.small_recipes import MakeRecipe
from tests.support.tiny_runs import assert_equal_checkpoints


def test_grpo_with_kl_trains_silent_groups_and_is_held_near_the_start(
    make_recipe: MakeRecipe, tmp_path: Path, noisy_rewards: None
) -> None:
    """The KL is 0 in the first step, grows as the policy moves, and less so under a larger coefficient."""
    grpo = {
        "objective.name": "grpo", "objective.f_norm": "std", "objective.f_norm_eps": 1e-4, "objective.alpha": False,
        "objective.reduction": "sequence", "run.steps": 8, "update.schedule": "constant",
    }  # fmt: skip
    last = {}
    for coefficient in (0.001, 10.0):
        folder = tmp_path / str(coefficient)
        train(make_recipe(**grpo, objective__kl_coefficient=coefficient, run__output_dir=str(folder)))
        rows = read_metrics(folder)
        assert all(row["trained_groups"] == row["groups"] == 4 for row in rows)
        assert rows[0]["update"]["kl"] == pytest.approx(0, abs=1e-9)
        assert all(row["update"]["kl"] > 0 for row in rows[1:])
        last[coefficient] = rows[-1]["update"]["kl"]
    assert last[10.0] < 0.5 * last[0.001]


def test_grpo_goes_on_with_the_reference_that_it_started_from(
    make_recipe: MakeRecipe, tmp_path: Path, noisy_rewards: None
) -> None:
    grpo = {
        "objective.name": "grpo", "objective.f_norm": "std", "objective.alpha": False,
        "objective.reduction": "sequence", "objective.kl_coefficient": 0.5, "update.schedule": "constant",
    }  # fmt: skip
    whole = train(make_recipe(**grpo, run__steps=4, run__output_dir=str(tmp_path / "whole")))
    train(make_recipe(**grpo, run__steps=2))
    resumed = train(make_recipe(**grpo, run__steps=4))
    for row, other in zip(read_metrics(tmp_path / "whole"), read_metrics(tmp_path / "run"), strict=True):
        assert row["update"] == other["update"]
    assert_equal_checkpoints(whole, resumed)


def test_gpg_loads_no_reference(make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    score_by(monkeypatch, lambda sample, text: noise(text))
    monkeypatch.setattr(learner, "Reference", None)  # calling it would fail
    train(make_recipe(run__steps=1))
    assert read_metrics(tmp_path / "run")[0]["update"]["kl"] is None
