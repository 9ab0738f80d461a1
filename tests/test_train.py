"""Whole runs on tiny models: published columns and kit rows, resume, interrupts, silence, validation."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from data_tools.generate import PUBLISHED_COLUMNS, draw_samples, write_published
from gpg_vl import cli
from gpg_vl import train as train_module
from gpg_vl.assemble import assemble
from gpg_vl.collect import Collector
from gpg_vl.config import Recipe
from gpg_vl.data.sources import write_jsonl, write_parquet
from gpg_vl.models import load_adapter
from gpg_vl.processes.interrupts import Interrupted
from gpg_vl.recipes import load_recipe
from gpg_vl.records import Reward, RolloutGroup, Sample, ScoredGroup
from gpg_vl.rewards.scorer import RewardError, Scorer
from gpg_vl.rollout.hf import HfEngine
from gpg_vl.run.run_log import read_metrics
from gpg_vl.train import Loop, train
from gpg_vl.update import layouts, learner
from gpg_vl.update.gradient import UpdateError
from gpg_vl.update.self_check import plain_log_probs

TASKS = ("counting", "geometry", "grounding")

MakeRecipe = Callable[..., Recipe]


Score = Callable[[Sample, str], float]


def score_by(monkeypatch: pytest.MonkeyPatch, score: Score) -> None:
    """Replaces the tasks' scoring: a random model answers nothing right and would have nothing to learn."""

    def score_group(group: RolloutGroup) -> ScoredGroup:
        values = [score(group.prompt.sample, completion.text) for completion in group.completions]
        rewards = tuple(Reward(value, {"correct": 0.0, "format": 0.0}, "ok") for value in values)
        return ScoredGroup(group.prompt, group.completions, rewards)

    monkeypatch.setattr(Scorer, "score", lambda scorer, groups, *_: [score_group(group) for group in groups])


def noise(text: str) -> float:
    return sum(map(ord, text)) % 97 / 97


@pytest.fixture
def make_recipe(tmp_path: Path, model_folders: dict[str, Path]) -> MakeRecipe:
    """A recipe of few small steps on drawn counting scenes; ``key=value`` with ``__`` for the dot overrides."""
    data = tmp_path / "counting.parquet"
    write_parquet(draw_samples("counting", 24, seed=0), data)

    def make(**overrides: Any) -> Recipe:
        values: dict[str, Any] = {
            "model.path": str(model_folders["qwen2_vl"]),
            "model.dtype": "float32",
            "model.min_pixels": 784,
            "model.max_pixels": 50176,
            "data.train": [str(data)],
            "prompt.template": "{question}",
            "rollout.prompts_per_step": 4,
            "rollout.group_size": 3,
            "rollout.max_new_tokens": 6,
            "objective.beta_th": 0.0,
            "update.learning_rate": 1e-3,
            "run.steps": 3,
            "run.output_dir": str(tmp_path / "run"),
            "run.eval_every": 0,
            "run.trackers": [],
        }
        values |= {key.replace("__", "."): value for key, value in overrides.items()}
        words = [
            word
            for key, value in values.items()
            for word in (f"--{key}", json.dumps(value) if not isinstance(value, str) else value)
        ]
        return load_recipe(None, words)

    return make


@pytest.fixture
def noisy_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    score_by(monkeypatch, lambda sample, text: noise(text))


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_equal_checkpoints(a: Path, b: Path) -> None:
    for name in ("model.safetensors", "training_state/optimizer-1.safetensors"):
        one, other = load_file(a / name), load_file(b / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), name
    assert (a / "training_state/state.json").read_text() == (b / "training_state/state.json").read_text()


def sampled(run: Path) -> list[str]:
    return [path.read_text() for path in sorted((run / "rollouts").glob("*.jsonl"))]


# --- end to end ---


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


# --- signal ---


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
    before, after = weights_of(model_folders["qwen2_vl"]), weights_of(folder)
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


# --- rewards that fail ---


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
    with pytest.raises(RewardError, match=r"reward function flaky on sample counting-\d+-\d+: "):
        train(make_recipe(**flaky, rewards__on_error="abort"))
    assert train(make_recipe(**flaky)).name == "checkpoint-3"


# --- stopping and going on ---


def test_resumed_run_equals_an_uninterrupted_one(make_recipe: MakeRecipe, tmp_path: Path, noisy_rewards: None) -> None:
    schedule = {"update.schedule": "cosine", "update.warmup_steps": 2, "objective.beta_th": 0.6}
    whole = train(make_recipe(**schedule, run__steps=6, run__output_dir=str(tmp_path / "whole")))
    recipe = make_recipe(**schedule, run__steps=6, run__save_every=3, run__output_dir=str(tmp_path / "cut"))
    stop_after(4, lambda: train(recipe))
    assert {p.name for p in (tmp_path / "cut").glob("checkpoint-*")} == {"checkpoint-3", "checkpoint-4"}
    shutil.rmtree(tmp_path / "cut/checkpoint-4")  # as if the crash had left no time to save
    resumed = train(recipe)
    assert_equal_checkpoints(whole, resumed)
    assert sampled(tmp_path / "whole") == sampled(tmp_path / "cut")
    assert without_seconds(tmp_path / "whole") == without_seconds(tmp_path / "cut")


@pytest.mark.parametrize(
    "keys",
    [
        {"model.lora": {"r": 4, "parts": ["text", "vision"]}, "update.learning_rates": {"vision": 3e-4}},
        {"model.freeze": ["vision"], "update.learning_rates": {"projector": 2e-3}, "update.optimizer": "adamw_fused"},
    ],
    ids=["lora", "parts"],
)
def test_resumed_run_of_some_weights_equals_an_uninterrupted_one(
    make_recipe: MakeRecipe, tmp_path: Path, noisy_rewards: None, keys: dict[str, Any]
) -> None:
    whole = train(make_recipe(**keys, run__steps=4, run__output_dir=str(tmp_path / "whole")))
    recipe = make_recipe(**keys, run__steps=4, run__save_every=2, run__output_dir=str(tmp_path / "cut"))
    stop_after(2, lambda: train(recipe))
    resumed = train(recipe)
    name = "adapter_model.safetensors" if "model.lora" in keys else "model.safetensors"
    for file in (name, "training_state/optimizer-1.safetensors"):
        one, other = load_file(whole / file), load_file(resumed / file)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), file
    assert sampled(tmp_path / "whole") == sampled(tmp_path / "cut")


def stop_after(steps: int, run: Callable[[], Any]) -> None:
    """Runs until ``steps`` steps are logged and then raises in the middle of the next rollout, as a crash would."""
    original = HfEngine.generate
    calls = 0

    def generate(self: HfEngine, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if args[3][0][1] > steps:
            raise KeyError("crash")
        return original(self, *args, **kwargs)

    HfEngine.generate = generate  # type: ignore[method-assign]
    try:
        with pytest.raises(KeyError, match="crash"):
            run()
    finally:
        HfEngine.generate = original  # type: ignore[method-assign]
    assert calls >= steps


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["rollout", "scoring", "backward", "optimizer step", "validation", "save"])
def test_a_signal_at_any_moment_costs_nothing(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, moment: str
) -> None:
    """Signalled in its third step, the run ends with the signal's code; the same recipe goes on as if nothing was."""
    calls = 0

    def in_third_call(work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any, **names: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 3:
                os.kill(os.getpid(), number)
            return work(*words, **names)

        return call

    def score(sample: Sample, text: str) -> float:
        return noise(text)

    score_by(monkeypatch, score)
    validation = tmp_path / "validation.parquet"
    write_parquet(draw_samples("counting", 6, seed=8), validation)
    common = {"run.steps": 5, "run.eval_every": 1, "data.eval": [str(validation)], "run.save_every": 1}
    whole = train(make_recipe(**common, run__output_dir=str(tmp_path / "whole")))
    with monkeypatch.context() as patched:
        place: dict[str, tuple[Any, str]] = {
            "rollout": (Collector, "_roll_out"),
            "scoring": (Collector, "_totals"),
            "backward": (learner, "accumulate_gradient"),
            "optimizer step": (torch.optim.AdamW, "step"),
            "validation": (train_module, "summarise_scores"),
            "save": (train_module, "save_checkpoint"),
        }
        owner, name = place[moment]
        patched.setattr(owner, name, in_third_call(getattr(owner, name)))
        handler = signal.getsignal(number)
        with pytest.raises(Interrupted) as caught:
            train(make_recipe(**common))
        assert caught.value.exit_code == 128 + number
        assert signal.getsignal(number) is handler
    assert_equal_checkpoints(whole, train(make_recipe(**common)))
    assert sampled(tmp_path / "whole") == sampled(tmp_path / "run")
    assert without_seconds(tmp_path / "whole") == without_seconds(tmp_path / "run")


def without_seconds(run: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in read_metrics(run)]


def test_finished_run_is_left_as_it_is(make_recipe: MakeRecipe, tmp_path: Path, noisy_rewards: None) -> None:
    folder = train(make_recipe())
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert train(make_recipe()) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_more_steps_go_on_from_the_end(make_recipe: MakeRecipe, tmp_path: Path, noisy_rewards: None) -> None:
    train(make_recipe(run__steps=2))
    folder = train(make_recipe(run__steps=4))
    assert folder.name == "checkpoint-4"
    assert [row["step"] for row in read_metrics(tmp_path / "run")] == [1, 2, 3, 4]


def test_another_recipe_is_refused_by_key(make_recipe: MakeRecipe, noisy_rewards: None) -> None:
    train(make_recipe(run__steps=1))
    with pytest.raises(
        ValueError, match=r"holds a run with objective.f_norm='one', the recipe has 'std'; choose another"
    ):
        train(make_recipe(run__steps=2, objective__f_norm="std"))
    with pytest.raises(ValueError, match=r"holds a run; choose another folder, or --run.resume auto"):
        train(make_recipe(run__steps=2, run__resume="never"))


def test_other_rows_under_the_same_name_are_refused(
    make_recipe: MakeRecipe, tmp_path: Path, noisy_rewards: None
) -> None:
    train(make_recipe(run__steps=1))
    write_parquet(draw_samples("counting", 24, seed=1), tmp_path / "counting.parquet")
    with pytest.raises(ValueError, match=r"data.train: .*counting.parquet holds other rows than the run in"):
        train(make_recipe(run__steps=2))
    assert len(read_metrics(tmp_path / "run")) == 1


def test_cooldown_moves_with_the_steps(make_recipe: MakeRecipe, tmp_path: Path, noisy_rewards: None) -> None:
    train(make_recipe(run__steps=3, run__cooldown_steps=2, update__schedule="constant"))
    folder = train(make_recipe(run__steps=6, run__cooldown_steps=2, update__schedule="constant"))
    assert folder.name == "checkpoint-6"
    rates = [row["learning_rate"] for row in read_metrics(tmp_path / "run")]
    assert rates == pytest.approx([1e-3, 1e-3, 5e-4, 1e-3, 1e-3, 5e-4])


def test_a_moved_run_goes_on(make_recipe: MakeRecipe, tmp_path: Path, noisy_rewards: None) -> None:
    train(make_recipe(run__steps=1))
    shutil.move(tmp_path / "run", tmp_path / "moved")
    assert train(make_recipe(run__steps=2, run__output_dir=str(tmp_path / "moved"))).name == "checkpoint-2"


# --- from the recipe to the gradient ---


@pytest.mark.parametrize("reduction", ["group", "sequence", "token", "token_official"])
def test_logged_loss_and_gradient_are_the_recipes(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reduction: str
) -> None:
    """One step of a run against the plain formulas: refill, alpha, temperature, denominator, all by the recipe."""
    score_by(monkeypatch, lambda sample, text: noise(text) if int(sample.id.split("-")[-1]) % 3 == 0 else 0.0)
    recipe = make_recipe(
        run__steps=1, objective__beta_th=1.0, objective__reduction=reduction, rollout__temperature=0.7,
        objective__f_norm="std", update__learning_rate=3e-4, update__betas=[0.5, 0.6], update__weight_decay=0.3,
        update__warmup_steps=2,
    )  # fmt: skip
    (tmp_path / "run").mkdir()
    stages = assemble(recipe, Scorer(recipe.rewards), Accelerator())
    kept: list[Any] = []
    original = stages.collector.collect
    monkeypatch.setattr(stages.collector, "collect", lambda *words: kept.append(original(*words)) or kept[-1])
    for group in stages.learner.optimizer.param_groups:
        assert (group["lr"], tuple(group["betas"]), group["weight_decay"]) == (3e-4, (0.5, 0.6), 0.3)
    reference = load_adapter(recipe.model)
    Loop(recipe, stages, Accelerator()).run()
    [row] = read_metrics(tmp_path / "run")
    loss = plain_loss(reference, kept[0].groups, reduction, temperature=0.7)
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in reference.model.parameters() if p.grad is not None]).norm()
    assert row["draws"] > 1
    assert row["update"]["loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert row["update"]["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
    assert row["learning_rate"] == pytest.approx(1.5e-4)
    assert [group["lr"] for group in stages.learner.optimizer.param_groups] == pytest.approx([1.5e-4] * 3)


def plain_loss(adapter: Any, groups: list[ScoredGroup], reduction: str, temperature: float) -> torch.Tensor:
    """GPG as the paper and the published codes write it, on plain rows, over all sampled groups."""
    per_group, per_sequence, trained_tokens, all_tokens = [], [], [], []
    for group in groups:
        rewards = torch.tensor([reward.total for reward in group.rewards])
        valid = bool(rewards.max() - rewards.min() > 1e-5)
        advantages = (rewards - rewards.mean()) / rewards.std() if valid else torch.zeros_like(rewards)
        terms = [
            -advantage * plain_log_probs(adapter, group.prompt, completion, temperature)
            for advantage, completion in zip(advantages, group.completions, strict=True)
        ]
        per_group.append(torch.cat(terms).mean())
        per_sequence += [term.mean() for term in terms]
        all_tokens += terms
        trained_tokens += terms if valid else []
    alpha = len(groups) / sum(group.has_signal for group in groups)
    return {
        "group": torch.stack(per_group).mean() * alpha,
        "sequence": torch.stack(per_sequence).mean() * alpha,
        "token": torch.cat(trained_tokens or [torch.zeros(1)]).mean(),
        "token_official": torch.cat(all_tokens).mean() * alpha,
    }[reduction]


def test_a_sample_drawn_twice_is_sampled_anew(make_recipe: MakeRecipe, tmp_path: Path, noisy_rewards: None) -> None:
    """Two rows, four prompts a step, two draws: every group has completions of its own."""
    path = tmp_path / "two.parquet"
    write_parquet(draw_samples("counting", 2, seed=3), path)
    recipe = make_recipe(data__train=[str(path)], run__steps=2, objective__beta_th=1.0, objective__max_draws=2)
    (tmp_path / "run").mkdir()
    stages = assemble(recipe, Scorer(recipe.rewards), Accelerator())
    stages.learner._objective.trains = lambda group: False  # type: ignore[method-assign]
    collected = stages.collector.collect(1)
    assert collected.num_draws == 2
    texts = [tuple(c.token_ids for c in group.completions) for group in collected.groups]
    assert len(set(texts)) == len(texts) == 8


def test_truncated_sampling_reaches_the_engine(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    train(make_recipe(run__steps=1, rollout__top_k=1))
    groups = [json.loads(line) for line in sampled(tmp_path / "run")[0].splitlines()]
    assert all(len({c["text"] for c in group["completions"]}) == 1 for group in groups)


def test_gold_of_a_base_prompt_continues_behind_think(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    train(make_recipe(objective__name="supervised", prompt__style="base", run__steps=1))
    [row, *_] = [json.loads(line) for line in sampled(tmp_path / "run")[0].splitlines()]
    assert row["prompt"].endswith("Assistant: <think>")
    assert row["completions"][0]["text"] == f"</think><answer>{row['answer']}</answer>"
    assert row["completions"][0]["reward"] == pytest.approx(1.2)


# --- validation ---


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


@pytest.mark.parametrize("keys", [{}, {"model.lora": {"r": 4, "parts": ["text", "vision"]}}], ids=["whole", "lora"])
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


# --- GRPO ---


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


@pytest.mark.parametrize("objective", ["gpg", "grpo"])
def test_a_skipped_step_leaves_its_groups(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noisy_rewards: None, objective: str
) -> None:
    """With the coefficients that the update used, those of the KL too; the weights stay as they were."""
    backward = layouts.Replicated.backward
    monkeypatch.setattr(
        layouts.Replicated, "backward", lambda self, loss, is_last: backward(self, loss * math.nan, is_last)
    )
    kl = {"objective__alpha": False, "objective__kl_coefficient": 0.5} if objective == "grpo" else {}
    recipe = make_recipe(objective__name=objective, **kl, update__max_skips=2)
    with pytest.raises(UpdateError, match="2 steps in a row had a gradient that is not finite"):
        train(recipe)
    run = tmp_path / "run"
    assert [row["skipped_steps"] for row in read_metrics(run)] == [1, 2]
    assert [row["update"]["grad_norm"] for row in read_metrics(run)] == [None, None]
    for step in (1, 2):
        groups = [json.loads(line) for line in (run / f"skipped/{step:06d}-rank-0.jsonl").read_text().splitlines()]
        assert len(groups) == 4
        for group in groups:
            assert list(map(len, group["coefficients"])) == list(map(len, group["completion_tokens"]))
    before = load_file(Path(recipe.model.path) / "model.safetensors")
    after = weights_of(run / "checkpoint-2")
    assert all(torch.equal(before[name], after[name]) for name in after)


def test_gpg_loads_no_reference(make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    score_by(monkeypatch, lambda sample, text: noise(text))
    monkeypatch.setattr(learner, "Reference", None)  # calling it would fail
    train(make_recipe(run__steps=1))
    assert read_metrics(tmp_path / "run")[0]["update"]["kl"] is None
