"""Runs with a discriminator: what they log, and that they go on bit for bit."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from data_tools.generate import draw_samples
from gpg_vl.data.sources import write_parquet
from gpg_vl.processes.interrupts import Interrupted
from gpg_vl.run.run_log import read_metrics
from gpg_vl.train import train
from gpg_vl.update.learner import Learner
from tests.support.messages import naming
from tests.support.scripted_rewards import score_by
from tests.support.small_recipes import MakeRecipe
from tests.support.tiny_runs import assert_equal_checkpoints, sampled, without_seconds

GAPO: dict[str, Any] = {
    "objective.name": "gapo",
    "objective.discriminator_width": 8,
    "objective.discriminator_rate": 0.01,
    "rewards.weights": {"discriminator": 0.5},
    "run.steps": 4,
    "run.save_every": 1,
    "update.schedule": "constant",
}
RELAXED = {"objective.discriminator_gradient": "relaxed", "objective.spectral_norm": True}
STATE = "training_state/discriminator.safetensors"


def test_the_discriminator_is_a_part_of_the_reward_that_learns(
    make_recipe: MakeRecipe, tmp_path: Path, noisy_rewards: None
) -> None:
    train(make_recipe(**GAPO))
    rows = read_metrics(tmp_path / "run")
    assert all(0 < row["parts"]["discriminator"] < 1 for row in rows)
    states = [load_file(tmp_path / f"run/checkpoint-{step}" / STATE) for step in (1, 2, 3, 4)]
    assert len({state["network/carry"].numpy().tobytes() for state in states}) == 4


@pytest.mark.parametrize("keys", [{}, {"update.epochs_per_rollout": 2}, RELAXED])
def test_a_run_goes_on_bit_for_bit(
    make_recipe: MakeRecipe, tmp_path: Path, noisy_rewards: None, keys: dict[str, Any]
) -> None:
    whole = train(make_recipe(**GAPO | keys, run__output_dir=str(tmp_path / "whole")))
    for cut in (1, 2):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.copytree(tmp_path / "whole", tmp_path / "run")
        for step in range(cut + 1, 5):
            shutil.rmtree(tmp_path / f"run/checkpoint-{step}")
        assert_equal_checkpoints(whole, train(make_recipe(**GAPO | keys)))
        assert sampled(tmp_path / "whole") == sampled(tmp_path / "run")
        assert without_seconds(tmp_path / "whole") == without_seconds(tmp_path / "run")


def test_a_signal_after_it_has_learned_costs_nothing(
    make_recipe: MakeRecipe, tmp_path: Path, noisy_rewards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it learned in a step that was not finished is not in what is saved."""
    keys = GAPO | {"run.save_every": 10}
    whole = train(make_recipe(**keys, run__output_dir=str(tmp_path / "whole")))
    work, calls = Learner.accumulate_gradient, []

    def signalled(*words: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return work(*words)

    with monkeypatch.context() as patched:
        patched.setattr(Learner, "accumulate_gradient", signalled)
        with pytest.raises(Interrupted):
            train(make_recipe(**keys))
    assert_equal_checkpoints(whole, train(make_recipe(**keys)))


def test_relaxed_samples_are_followed_where_all_rewards_are_equal(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part is logged and not in the reward, so the score function has nothing to follow."""
    score_by(monkeypatch, lambda sample, text: 0.5)
    train(make_recipe(**GAPO | RELAXED, run__steps=1))
    [row] = read_metrics(tmp_path / "run")
    assert row["reward"] == 0.5 and 0 < row["parts"]["discriminator"] < 1
    assert row["trained_groups"] == 4 and row["update"]["grad_norm"] > 0
    assert row["update"]["loss"] == pytest.approx(-0.5 * row["parts"]["discriminator"], rel=1e-4)


@pytest.mark.parametrize("key", ["update.epochs_per_rollout", "update.groups_per_update"])
def test_relaxed_samples_are_followed_once(make_recipe: MakeRecipe, key: str) -> None:
    with pytest.raises(ValueError, match=naming("objective.discriminator_gradient", key)):
        train(make_recipe(**GAPO | RELAXED | {key: 2}))


def test_rows_without_a_gold_completion_are_refused_before_the_run(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    [sample] = draw_samples("counting", 1, seed=0)
    rows = tmp_path / "rows.parquet"
    write_parquet([replace(sample, meta={"reasoning": "three <|im_end|> and one"})], rows)
    with pytest.raises(ValueError, match=naming("row 1", "<|im_end|>")):
        train(make_recipe(**GAPO | {"data.train": [str(rows)]}))
    assert not (tmp_path / "run/metrics.jsonl").exists()
