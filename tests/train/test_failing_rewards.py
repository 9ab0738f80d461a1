"""Reward functions that hang and raise, under every policy, in whole runs."""

from __future__ import annotations

import json
import re
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
    """Keys of a recipe with a noisy reward function, which hangs on one row in six and raises on another."""
    (tmp_path / "functions.py").write_text(
        """
import time

def flaky(completions, id, **kwargs):
    number = int(id[0].split("-")[-1])
    if number % 6 == 1:
        time.sleep(60)
    if number % 6 == 2 and not completions[0][0]["content"].endswith("</answer>"):  # none of a random model
        raise KeyError(id[0])
    return [sum(map(ord, messages[0]["content"])) % 97 / 97 for messages in completions]
"""
    )
    return {"rewards.functions": [f"{tmp_path}/functions.py:flaky"], "rewards.timeout_s": 0.3}


@pytest.mark.parametrize("policy", ["zero", "drop_group"])
def test_failing_rewards_do_not_stop_the_run(
    make_recipe: MakeRecipe, tmp_path: Path, flaky: dict[str, Any], policy: str, capfd: pytest.CaptureFixture[str]
) -> None:
    train(make_recipe(**flaky, rewards__on_error=policy, rollout__prompts_per_step=6, objective__beta_th=0.3))
    rows = read_metrics(tmp_path / "run")
    assert len(rows) == 3
    for row, file in zip(rows, sampled(tmp_path / "run"), strict=True):
        groups = [json.loads(line) for line in file.splitlines()]
        kinds = [int(group["id"].split("-")[-1]) % 6 for group in groups]
        assert len(groups) == 6 * row["draws"]
        assert row["status"].get("timeout", 0) == 3 * kinds.count(1)
        assert row["status"].get("error", 0) == 3 * kinds.count(2)
        failed = kinds.count(1) + kinds.count(2)
        assert row["dropped_groups"] == (failed if policy == "drop_group" else 0)
        assert row["groups"] == len(groups) - row["dropped_groups"]
        assert row["trained_groups"] == sum(group["trained"] for group in groups)
        with_signal = [len({c["reward"] for c in group["completions"]}) > 1 for group in groups]
        assert [group["trained"] for group in groups] == with_signal
        failures = [group for group, kind in zip(groups, kinds, strict=True) if kind in (1, 2)]
        assert all(c["reward"] == 0 and c["parts"] == {} for group in failures for c in group["completions"])
        assert all(c["message"] for group in failures for c in group["completions"])
    said = re.findall(r"scoring failed for (\d+) of (\d+) completions: (.*)", capfd.readouterr().err)
    counts = [row["status"] for row in rows if row["status"].keys() & {"timeout", "error"}]
    failed = [(each.get("timeout", 0) + each.get("error", 0), sum(each.values())) for each in counts]
    assert [(int(n), int(all_of_them)) for n, all_of_them, _ in said] == failed, "once a step"
    pattern = r"KeyError: 'counting-.*' \(functions.py:9\)|no answer within 0.3 s"
    assert all(re.fullmatch(pattern, cause) for *_, cause in said)


@pytest.mark.parametrize("policy", ["zero", "drop_group"])
def test_a_draw_of_which_nothing_could_be_scored_ends_the_run(
    make_recipe: MakeRecipe, tmp_path: Path, flaky: dict[str, Any], policy: str
) -> None:
    rows = [sample for sample in draw_samples("counting", 24, seed=0) if int(sample.id.split("-")[-1]) % 6 == 2]
    write_parquet(rows, tmp_path / "failing.parquet")
    message = r"scoring failed for all 12 completions of a draw: KeyError: 'counting-.*' \(functions.py:9\)"
    with pytest.raises(RewardError, match=message):
        train(make_recipe(**flaky, data__train=[str(tmp_path / "failing.parquet")], rewards__on_error=policy))


def test_a_mistake_of_a_reward_function_ends_the_run(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Though only right answers run into it, and single failures count 0."""
    (tmp_path / "mistaken.py").write_text("def f(completions, **kwargs):\n    return {text: 1.0 for text in 'ab'}\n")
    with pytest.raises(RewardError, match=r"reward function f on sample .*: a reward function returned dict; .*py:1"):
        train(make_recipe(**{"rewards.functions": [f"{tmp_path}/mistaken.py:f"]}))


def test_abort_stops_the_run_which_may_go_on_with_another_policy(
    make_recipe: MakeRecipe, flaky: dict[str, Any]
) -> None:
    with pytest.raises(RewardError, match=r"reward function flaky on sample counting-\d+-\d+: "):
        train(make_recipe(**flaky, rewards__on_error="abort"))
    assert train(make_recipe(**flaky)).name == "checkpoint-3"
