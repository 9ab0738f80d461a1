"""Whole runs on tiny models: warm start, draws and refills, silence, what a run folder holds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from data_tools.generate import PUBLISHED_COLUMNS, draw_samples, write_published
from gpg_vl import assemble
from gpg_vl.data.sources import write_jsonl
from gpg_vl.models import load_adapter
from gpg_vl.planning.memory import Budgets
from gpg_vl.recipes import load_recipe
from gpg_vl.rollout.hf import HfEngine
from gpg_vl.run.run_log import read_metrics
from gpg_vl.train import train
from tests.support.messages import lines_naming, naming
from tests.support.scripted_rewards import noise, score_by
from tests.support.small_recipes import MakeRecipe
from tests.support.tiny_runs import sampled, without_seconds

TASKS = ("counting", "geometry", "grounding")


@pytest.mark.parametrize("kind", ["published parquet", "kit jsonl"])
@pytest.mark.parametrize("task", TASKS)
def test_supervised_then_gpg_on_each_task(make_recipe: MakeRecipe, tmp_path: Path, task: str, kind: str) -> None:
    """The demo's path in small: gold completions, then GPG from that checkpoint; the loss falls, the model loads."""
    samples = draw_samples(task, 32, seed=1)
    if kind == "published parquet":
        path = tmp_path / "rows.parquet"
        write_published(samples, path)
        source: Any = {"path": str(path), "columns": PUBLISHED_COLUMNS}
    else:
        path = tmp_path / "rows.jsonl"
        write_jsonl(samples, path)
        source = str(path)
    common = {"data.train": [source], "task": task}
    warm = make_recipe(
        **common, objective__name="supervised", objective__reduction="token", rollout__group_size=1, run__steps=12,
        rollout__prompts_per_step=16, run__output_dir=str(tmp_path / "warm"),
    )  # fmt: skip
    train(warm)
    losses = [row["update"]["loss"] for row in read_metrics(tmp_path / "warm")]
    assert losses[-1] < 0.7 * losses[0]
    assert all(row["reward"] == pytest.approx(1.2) for row in read_metrics(tmp_path / "warm")), "gold earns full marks"

    recipe = make_recipe(**common, model__path=str(tmp_path / "warm"), rollout__max_new_tokens=24, run__steps=2)
    folder = train(recipe)
    rows = read_metrics(tmp_path / "run")
    assert [row["step"] for row in rows] == [1, 2]
    assert all(row["groups"] == 4 and row["draws"] == 1 for row in rows)
    first = json.loads((tmp_path / "run/rollouts/000001.jsonl").read_text().splitlines()[0])
    assert first["task"] == task
    assert len(first["completions"]) == 3
    adapter = load_adapter(replace(recipe.model, path=str(folder)))
    assert adapter.tokenizer.decode([8]) == "<think>"


def test_run_folder_holds_a_whole_model_and_the_resolved_recipe(
    make_recipe: MakeRecipe, tmp_path: Path, noisy_rewards: None
) -> None:
    recipe = make_recipe(run__save_every=2, run__trackers=["tensorboard"])
    folder = train(recipe)
    assert folder == tmp_path / "run/checkpoint-3"
    assert {p.name for p in (tmp_path / "run").glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-3"}
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "recipe.yaml"} <= names
    assert names & {"preprocessor_config.json", "processor_config.json"}
    assert load_recipe(str(folder / "recipe.yaml")) == recipe == load_recipe(str(tmp_path / "run/recipe.yaml"))
    assert list((tmp_path / "run/tensorboard").iterdir())


def test_without_signal_no_weight_changes(
    make_recipe: MakeRecipe, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    """A random model answers nothing right: every group is silent, however often it is drawn."""
    recipe = make_recipe(
        objective__beta_th=0.5, objective__max_draws=3, rewards__weights={"format": 0.0}, update__weight_decay=0.1
    )
    folder = train(recipe)
    rows = read_metrics(tmp_path / "run")
    assert [row["draws"] for row in rows] == [3, 3, 3]
    assert [row["groups"] for row in rows] == [12, 12, 12]
    assert all(row["trained_groups"] == 0 and row["alpha"] == 0 and row["update"] is None for row in rows)
    assert rows[-1]["silent_steps"] == 3
    before, after = load_file(model_folders["qwen2_vl"] / "model.safetensors"), load_file(folder / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_refill_goes_on_until_enough_groups_have_signal(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sample in three gives signal; beta_th 0.75 of 4 prompts asks for 3 groups."""

    score_by(monkeypatch, lambda sample, text: noise(text) if int(sample.id.split("-")[-1]) % 3 == 0 else 0.0)
    train(make_recipe(objective__beta_th=0.75, run__steps=4))
    for row, file in zip(read_metrics(tmp_path / "run"), sampled(tmp_path / "run"), strict=True):
        groups = [json.loads(line) for line in file.splitlines()]
        with_signal = [g for g in groups if int(g["id"].split("-")[-1]) % 3 == 0]
        assert row["groups"] == len(groups) == 4 * row["draws"]
        assert row["trained_groups"] == sum(g["trained"] for g in groups) == len(with_signal)
        assert row["alpha"] == len(groups) / len(with_signal)
        assert row["trained_groups"] >= 3
        before_last_draw = [g for g in groups[:-4] if g["trained"]]
        assert len(before_last_draw) < 3, "it drew once more than needed"
    assert any(row["draws"] > 1 for row in read_metrics(tmp_path / "run"))


def test_step_follows_the_reward(make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """GPG end to end on a reward that needs no skill: completions with more of one token become more frequent."""

    score_by(monkeypatch, lambda sample, text: min(1.0, text.count("<answer>") / 3))
    train(make_recipe(run__steps=25, rollout__prompts_per_step=8, rollout__group_size=8, update__learning_rate=3e-3))
    rewards = [row["reward"] for row in read_metrics(tmp_path / "run")]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.3


@pytest.mark.parametrize("rate", [1e30, 1e20])
def test_weights_that_overflow_end_the_run_and_are_not_saved(
    make_recipe: MakeRecipe, noisy_rewards: None, tmp_path: Path, rate: float
) -> None:
    """What the model computes from weights of that size is not finite."""
    with pytest.raises(ValueError, match=naming("not finite", "update.learning_rate")):
        train(make_recipe(update__learning_rate=rate, run__save_every=1))
    for folder in (tmp_path / "run").glob("checkpoint-*"):
        weights = load_file(folder / "model.safetensors").values()
        assert all(weight.isfinite().all() for weight in weights)
    assert not (tmp_path / "run/checkpoint-3").exists()
    assert not list((tmp_path / "run").glob("*.partial"))


def test_a_longer_run_says_what_becomes_of_the_schedule(
    make_recipe: MakeRecipe, noisy_rewards: None, capfd: pytest.CaptureFixture[str]
) -> None:
    train(make_recipe(run__steps=2))
    train(make_recipe(run__steps=4))
    [line] = lines_naming(capfd.readouterr().err, "note", "run.steps", 2, 4, "0.0005", 0)
    assert line.startswith("note: ")


def test_budgets_of_a_machine_reach_rollout_and_update(
    make_recipe: MakeRecipe, tmp_path: Path, noisy_rewards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They change no sample and no gradient. One below the longest row grows to it."""
    given: list[int] = []
    build = HfEngine.__init__

    def init(engine: HfEngine, adapter: Any, tokens_per_batch: int, *rest: Any) -> None:
        given.append(tokens_per_batch)
        build(engine, adapter, tokens_per_batch, *rest)

    monkeypatch.setattr(HfEngine, "__init__", init)
    rows = []
    for name, budgets in (("none", Budgets(None, None)), ("large", Budgets(10**5, 10**6)), ("small", Budgets(1, 1))):
        monkeypatch.setattr(assemble, "_choose_budgets", lambda *_, budgets=budgets: budgets)
        train(make_recipe(run__steps=1, run__output_dir=str(tmp_path / name)))
        [row] = read_metrics(tmp_path / name)
        rows.append(row)
    none, large, small = (row["update"] for row in rows)
    assert (none["tokens_per_micro_batch"], large["tokens_per_micro_batch"]) == (8192, 10**5)
    assert 1 < small["tokens_per_micro_batch"] < 8192 and small["num_micro_batches"] > none["num_micro_batches"]
    assert {65536, 10**6, 1} <= set(given)
    assert len({row["reward"] for row in rows}) == 1
    for found in (large, small):
        assert found["grad_norm"] == pytest.approx(none["grad_norm"], rel=1e-5)


def test_a_deterministic_run_is_the_same_on_a_cpu(make_recipe: MakeRecipe, tmp_path: Path, noisy_rewards: None) -> None:
    """Every operation of rollout and update has a deterministic form there, and torch's setting ends with the run."""
    for name, is_deterministic in (("any", False), ("fixed", True)):
        keys = {"run__steps": 1, "run__deterministic": is_deterministic, "run__output_dir": str(tmp_path / name)}
        train(make_recipe(**keys))
        assert not torch.are_deterministic_algorithms_enabled()
    assert without_seconds(tmp_path / "any") == without_seconds(tmp_path / "fixed")
    [row] = read_metrics(tmp_path / "any")
    assert 0 <= row["update"]["log_prob_gap"] <= row["update"]["largest_log_prob_gap"] < 1e-5
