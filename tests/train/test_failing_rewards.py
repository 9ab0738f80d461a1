"""Reward functions that hang and raise, under every policy, in whole runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_tools.generate import draw_samples
from gpg_vl.data.sources import write_parquet
from gpg_vl.rewards.scorer import RewardError
from gpg_vl.run.run_log import read_metrics
from gpg_vl.train import train
from tests.support.small_recipes import MakeRecipe
from tests.support.tiny_runs import sampled


@pytest.fixture
def flaky(tmp_path: Path) -> dict[str, Any]:
    """Keys of a recipe with a noisy reward function, which hangs on one row in three and raises on another."""
    (tmp_path / "functions.py").write_text(
        """
import time

def flaky(completions, id, **kwargs):
    number = int(id[0].split("-")[-1])
    if number % 3 == 1:
        time.sleep(60)
    if number % 3 == 2:
        raise KeyError(id[0])
    return [sum(map(ord, messages[0]["content"])) % 97 / 97 for messages in completions]
"""
    )
    return {"rewards.functions": [f"{tmp_path}/functions.py:flaky"], "rewards.timeout_s": 0.1}


@pytest.mark.parametrize("policy", ["zero", "drop_group"])
def test_failing_rewards_do_not_stop_the_run(
    make_recipe: MakeRecipe, tmp_path: Path, flaky: dict[str, Any], policy: str
) -> None:
    train(make_recipe(**flaky, rewards__on_error=policy, rollout__prompts_per_step=6, objective__beta_th=0.3))
    rows = read_metrics(tmp_path / "run")
    assert len(rows) == 3
    for row, file in zip(rows, sampled(tmp_path / "run"), strict=True):
        groups = [json.loads(line) for line in file.splitlines()]
        kinds = [int(group["id"].split("-")[-1]) % 3 for group in groups]
        assert len(groups) == 6 * row["draws"]
        assert row["status"].get("timeout", 0) == 3 * kinds.count(1)
        assert row["status"].get("error", 0) == 3 * kinds.count(2)
        failed = kinds.count(1) + kinds.count(2)
        assert row["dropped_groups"] == (failed if policy == "drop_group" else 0)
        assert row["groups"] == len(groups) - row["dropped_groups"]
        assert row["trained_groups"] == sum(group["trained"] for group in groups)
        with_signal = [len({c["reward"] for c in group["completions"]}) > 1 for group in groups]
        assert [group["trained"] for group in groups] == with_signal
        failures = [group for group, kind in zip(groups, kinds, strict=True) if kind]
        assert all(c["reward"] == 0 and c["parts"] == {} for group in failures for c in group["completions"])


def test_a_step_of_which_every_group_is_dropped(make_recipe: MakeRecipe, tmp_path: Path, flaky: dict[str, Any]) -> None:
    rows = [sample for sample in draw_samples("counting", 24, seed=0) if int(sample.id.split("-")[-1]) % 3 == 2]
    write_parquet(rows, tmp_path / "failing.parquet")
    train(make_recipe(**flaky, data__train=[str(tmp_path / "failing.parquet")], rewards__on_error="drop_group"))
    assert all(row["groups"] == 0 and row["dropped_groups"] == 4 for row in read_metrics(tmp_path / "run"))


def test_abort_stops_the_run_which_may_go_on_with_another_policy(
    make_recipe: MakeRecipe, flaky: dict[str, Any]
) -> None:
    with pytest.raises(RewardError, match=r"flaky.*counting-\d+-\d+"):
        train(make_recipe(**flaky, rewards__on_error="abort"))
    assert train(make_recipe(**flaky)).name == "checkpoint-3"
