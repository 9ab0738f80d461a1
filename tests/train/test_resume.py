"""A run that stopped and resumes: as if it had never stopped, or refused by name."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from data_tools.generate import draw_samples
from gpg_vl.data.sources import write_parquet
from gpg_vl.models.weights.trained_weights import TrainedWeights
from gpg_vl.recipes import load_recipe
from gpg_vl.rollout.hf import HfEngine
from gpg_vl.run import checkpoint_writing
from gpg_vl.run.run_log import RunLog, read_metrics
from gpg_vl.train import train
from tests.support.messages import naming
from tests.support.small_recipes import MakeRecipe
from tests.support.tiny_runs import assert_equal_checkpoints, sampled, without_seconds


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


def test_a_sealed_checkpoint_has_the_log_of_its_steps(
    make_recipe: MakeRecipe, tmp_path: Path, noisy_rewards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However slow the log is written, and whether the run waits for the checkpoint or not."""
    append, seal, logged = RunLog._append_metrics, checkpoint_writing.seal_folder, {}

    def append_slowly(log: RunLog, line: str) -> None:
        time.sleep(0.5)
        append(log, line)

    def look_and_seal(folder: Path) -> None:
        logged[folder.name] = [row["step"] for row in read_metrics(folder.parent)]
        seal(folder)

    monkeypatch.setattr(RunLog, "_append_metrics", append_slowly)
    monkeypatch.setattr(checkpoint_writing, "seal_folder", look_and_seal)
    train(make_recipe(run__steps=3, run__save_every=1))
    assert sorted(map(len, logged.values())) == [1, 2, 3]


@pytest.mark.parametrize(
    "keys",
    [
        {"model.lora": {"r": 4, "parts": ["text", "vision"]}, "update.learning_rates": {"vision": 3e-4}},
        {"model.freeze": ["vision"], "update.learning_rates": {"projector": 2e-3}, "update.optimizer": "adamw_fused"},
        {"model.freeze": ["vision"], "model.dtype": "bfloat16"},
        pytest.param(
            {"model.lora": {"r": 4, "quantize": "nf4"}, "model.dtype": "bfloat16"},
            marks=pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"),
        ),
    ],
    ids=["lora", "parts", "bfloat16", "quantized"],
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


def test_a_run_that_cast_its_weights_in_each_call_goes_on_in_rounded_ones(
    make_recipe: MakeRecipe, tmp_path: Path, noisy_rewards: None
) -> None:
    """Such as one of the version that had no bfloat16 weights; its checkpoint is float32."""
    recipe = make_recipe(**{"model.freeze": ["vision"], "model.dtype": "bfloat16"}, run__steps=3, run__save_every=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainedWeights, "round_weights", lambda self: None)
        stop_after(2, lambda: train(recipe))
    before = load_file(tmp_path / "run/checkpoint-2/model.safetensors")
    after = load_file(train(recipe) / "model.safetensors")
    assert [row["step"] for row in read_metrics(tmp_path / "run")] == [1, 2, 3]
    for name, each in after.items():
        is_frozen = "visual." in name and ".merger." not in name
        assert each.dtype == torch.float32
        assert torch.equal(each, before[name].bfloat16().float()) == is_frozen, name


def test_workers_change_nothing(make_recipe: MakeRecipe, tmp_path: Path, noisy_rewards: None) -> None:
    """A run without workers, and one with two that stopped on its way."""
    keys = {"objective.beta_th": 0.6, "run.steps": 3}
    whole = train(make_recipe(**keys, data__workers=0, run__output_dir=str(tmp_path / "whole")))
    recipe = make_recipe(**keys, data__workers=2, run__output_dir=str(tmp_path / "cut"))
    stop_after(1, lambda: train(recipe))
    resumed = train(recipe)
    assert_equal_checkpoints(whole, resumed)
    assert sampled(tmp_path / "whole") == sampled(tmp_path / "cut")
    assert without_seconds(tmp_path / "whole") == without_seconds(tmp_path / "cut")
    assert "data.workers" not in {thread.name for thread in threading.enumerate()}


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


def test_another_recipe_is_refused_by_key(make_recipe: MakeRecipe, tmp_path: Path, noisy_rewards: None) -> None:
    train(make_recipe(run__steps=1))
    with pytest.raises(ValueError, match=naming(tmp_path / "run", "objective.f_norm", "one", "std")):
        train(make_recipe(run__steps=2, objective__f_norm="std"))
    with pytest.raises(ValueError, match=naming(tmp_path / "run", "run.resume", "auto")):
        train(make_recipe(run__steps=2, run__resume="never"))


def test_other_rows_under_the_same_name_are_refused(
    make_recipe: MakeRecipe, tmp_path: Path, noisy_rewards: None
) -> None:
    train(make_recipe(run__steps=1))
    write_parquet(draw_samples("counting", 24, seed=1), tmp_path / "counting.parquet")
    with pytest.raises(ValueError, match=naming("data.train", "counting.parquet", "run.output_dir")):
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


def test_another_model_under_an_adapter_is_refused(
    make_recipe: MakeRecipe, tmp_path: Path, model_folders: dict[str, Path], noisy_rewards: None
) -> None:
    base = tmp_path / "base"
    shutil.copytree(model_folders["qwen2_vl"], base)
    keys = {"model.path": str(base), "model.lora": {"r": 4}}
    train(make_recipe(**keys, run__steps=1))
    weights = load_file(base / "model.safetensors")
    save_file({name: weight + 1e-3 for name, weight in weights.items()}, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=naming("model.path", "base model", "run.output_dir")):
        train(make_recipe(**keys, run__steps=2))
    assert len(read_metrics(tmp_path / "run")) == 1


def test_other_code_that_scores_is_refused(make_recipe: MakeRecipe, tmp_path: Path, noisy_rewards: None) -> None:
    code = tmp_path / "own.py"
    code.write_text("def short(completions, **columns):\n    return [0.5] * len(completions)\n")
    keys = {"rewards.functions": [f"{code}:short"]}
    train(make_recipe(**keys, run__steps=1))
    train(make_recipe(**keys, run__steps=2))
    code.write_text(code.read_text().replace("0.5", "0.6"))
    with pytest.raises(ValueError, match=naming("rewards.functions", "own.py", "run.output_dir")):
        train(make_recipe(**keys, run__steps=3))
    assert len(read_metrics(tmp_path / "run")) == 2


def test_a_recipe_and_its_saved_one_are_one_run(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noisy_rewards: None
) -> None:
    """Relative paths, then the absolute ones that the run has saved, then the relative ones in a moved folder."""
    (tmp_path / "here").mkdir()
    write_parquet(draw_samples("counting", 24, seed=0), tmp_path / "here/rows.parquet")
    relative = {"data.train": ["rows.parquet"], "run.output_dir": "run"}
    monkeypatch.chdir(tmp_path / "here")
    assert train(make_recipe(**relative, run__steps=1)).name == "checkpoint-1"
    saved = load_recipe("run/recipe.yaml", ["--run.steps", "2"])
    monkeypatch.chdir(tmp_path)
    assert train(saved) == tmp_path / "here/run/checkpoint-2"
    shutil.move(tmp_path / "here", tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    assert train(make_recipe(**relative, run__steps=3)).name == "checkpoint-3"
