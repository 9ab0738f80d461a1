"""Validation during a run: what it decides, and that `gpg-vl eval` gives the same numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_tools.generate import draw_samples
from gpg_vl import cli
from gpg_vl import train as train_module
from gpg_vl.data.sources import write_parquet
from gpg_vl.run.run_log import read_metrics
from gpg_vl.train import train
from tests.support.small_recipes import MakeRecipe


def test_tasks_leave_the_mixture_and_the_run_ends_with_a_cooldown(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scripted validation scores: counting is there at step 2, falls at 4, both are there at 6."""
    files = []
    for task in ("counting", "geometry"):
        files.append(str(tmp_path / f"{task}.parquet"))
        write_parquet(draw_samples(task, 12, seed=4), Path(files[-1]))
    script = {2: (0.5, 0.0), 4: (0.1, 0.6), 6: (0.7, 0.7), 8: (0.0, 0.0)}
    original = train_module.summarise_scores
    calls = iter(script.values())

    def scripted(groups: Any, tasks: Any) -> Any:
        values = dict(zip(("counting", "geometry"), next(calls), strict=True))
        return {task: replace(score, value=values[task]) for task, score in original(groups, tasks).items()}

    monkeypatch.setattr(train_module, "summarise_scores", scripted)
    recipe = make_recipe(
        data__train=files, data__eval=files, evaluation__limit=4, objective__name="supervised", rollout__group_size=1,
        rollout__prompts_per_step=8, run__steps=50, run__eval_every=2, run__cooldown_steps=3,
        run__stop_when={"counting": 0.4, "geometry": 0.4}, update__schedule="constant",
    )  # fmt: skip
    folder = train(recipe)
    assert folder.name == "checkpoint-9"
    steps = [row for row in read_metrics(tmp_path / "run") if "reward_by_task" in row]
    tasks = {row["step"]: set(row["reward_by_task"]) for row in steps}
    both = {"counting", "geometry"}
    assert [tasks[n] for n in (3, 4)] == [{"geometry"}] * 2
    assert [tasks[n] for n in (5, 6)] == [{"counting"}] * 2
    assert all(tasks[n] == both for n in (1, 2, 7, 8, 9))
    assert [row["learning_rate"] for row in steps[6:]] == pytest.approx([1e-3, 1e-3 * 2 / 3, 1e-3 / 3])


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param({}, marks=pytest.mark.slow, id="whole"),
        pytest.param({"model.lora": {"r": 4, "parts": ["text", "vision"]}}, id="lora"),
    ],
)
def test_evaluation_of_a_checkpoint_gives_the_logged_number(
    keys: dict[str, Any], make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    """That of the middle of the training and the last, by the command, with the recipe saved in the checkpoint."""
    data = tmp_path / "validation.parquet"
    write_parquet(draw_samples("counting", 20, seed=9), data)
    recipe = make_recipe(
        data__eval=[str(data)], objective__name="supervised", rollout__group_size=1, rollout__prompts_per_step=16,
        rollout__max_new_tokens=12, run__steps=40, run__eval_every=20, run__save_every=20,
        **keys,
    )  # fmt: skip
    train(recipe)
    logged = {row["step"]: row["eval"]["counting"] for row in read_metrics(tmp_path / "run") if "eval" in row}
    assert set(logged) == {20, 40}
    for step, score in logged.items():
        checkpoint, out = tmp_path / f"run/checkpoint-{step}", tmp_path / f"out-{step}"
        assert cli.main(["eval", str(checkpoint), "--data", str(data), "--out", str(out)]) == 0
        evaluated = json.loads((out / "results.json").read_text())["tasks"]["counting"]
        assert evaluated["legacy"] is not None
        assert {**evaluated, "legacy": None} == score, "validation goes without the published metric"
    assert logged[20] != logged[40], "a number that never moves would show nothing"
    assert keys or logged[40]["status"].get("ok", 0) > 0
