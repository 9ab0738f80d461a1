"""DAPO in whole runs: it draws until enough groups have right and wrong answers; a format that differs is not that."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpg_vl.records import RolloutGroup
from gpg_vl.rewards import scorer
from gpg_vl.run.run_log import read_metrics
from gpg_vl.train import train
from tests.support.small_recipes import MakeRecipe


def is_mixed(sample_id: str) -> bool:
    return sum(map(ord, sample_id)) % 2 == 0


def write_answers(group: RolloutGroup) -> tuple[str, ...]:
    """In place of what a random model writes: all right, but for their format; a wrong one in every other group."""
    gold = group.prompt.sample.answer
    last = "<answer>none</answer>" if is_mixed(group.prompt.sample.id) else f"<answer>{gold}</answer>"
    return f"<think>x</think><answer>{gold}</answer>", f"<answer>{gold}</answer>", last


@pytest.mark.parametrize("name", ["dapo", "gpg"])
def test_groups_whose_format_alone_differs_are_not_kept(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(scorer, "_texts", write_answers)
    dapo = {"update.epochs_per_rollout": 2, "objective.beta_th": 1.0, "objective.max_draws": 8}
    folder = train(make_recipe(**{"objective.name": name, "run.steps": 1, **(dapo if name == "dapo" else {})}))
    rows = [json.loads(line) for line in (tmp_path / "run/rollouts/000001.jsonl").read_text().splitlines()]
    assert all(len({one["reward"] for one in row["completions"]}) > 1 for row in rows), "the totals all differ"
    kinds = {is_mixed(row["id"]) for row in rows}
    assert kinds == {True, False}
    [step] = read_metrics(tmp_path / "run")
    if name == "gpg":
        assert step["trained_groups"] == step["groups"] == 4
        return
    assert step["trained_groups"] == 4 and step["draws"] > 1
    assert [is_mixed(row["id"]) for row in rows if row["trained"]] == [True] * 4
    saved = json.loads((folder / "training_state/rollout.json").read_text())
    assert all(is_mixed(group["prompt"]["id"]) for group in saved["groups"])
    assert {reward["main"] for group in saved["groups"] for reward in group["rewards"]} == {0.0, 1.0}
    resumed = train(make_recipe(**{"objective.name": name, "run.steps": 2, **dapo}))
    assert resumed.name == "checkpoint-2"
