"""A family without M-RoPE trains: whole runs, whose checkpoints transformers reads."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, LlavaOnevisionForConditionalGeneration

from data_tools.generate import draw_samples
from gpg_vl.data.sources import write_parquet
from gpg_vl.models.families.llava_onevision import LlavaOnevisionAdapter
from gpg_vl.models.folder.saving import check_model_folder
from gpg_vl.recipes import load_recipe
from gpg_vl.run.run_log import read_metrics
from gpg_vl.train import train

LoadModel = Callable[..., LlavaOnevisionAdapter]

OWN_REWARD = """
def length(completions, **kwargs):
    return [len(messages[0]["content"]) % 7 / 7 for messages in completions]
"""


@pytest.fixture
def run_two_steps(llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Trains with keys of ``model`` and ``objective``; every loss is finite and every step moves weights."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN_REWARD)
    write_parquet(draw_samples("counting", 12, seed=0), tmp_path / "rows.parquet")

    def run(model: dict[str, object], objective: dict[str, object]) -> Path:
        recipe: dict[str, object] = {
            "model": {"path": str(llava_folder), "dtype": "float32", "max_tiles": 4, **model},
            "task": "counting",
            "data": {"train": ["rows.parquet"], "eval": ["rows.parquet"]},
            "rewards": {"functions": ["own.py:length"]},
            "rollout": {"prompts_per_step": 4, "group_size": 4, "max_new_tokens": 6},
            "objective": objective,
            "update": {"learning_rate": 1e-3},
            "run": {"steps": 2, "output_dir": "run", "save_every": 2, "eval_every": 2, "trackers": []},
        }
        Path("recipe.yaml").write_text(json.dumps(recipe))
        checkpoint = train(load_recipe("recipe.yaml"))
        steps = [row for row in read_metrics(Path("run")) if "update" in row]
        assert [row["step"] for row in steps] == [1, 2]
        assert all(math.isfinite(row["update"]["loss"]) and row["update"]["grad_norm"] > 0 for row in steps)
        check_model_folder(checkpoint)
        return checkpoint

    return run


@pytest.mark.parametrize("freeze", [[], ["vision", "projector"]], ids=str)
def test_two_steps_leave_a_model_of_transformers(
    load_llava: LoadModel, run_two_steps: Callable[..., Path], freeze: list[str]
) -> None:
    checkpoint = run_two_steps({"freeze": freeze}, {})
    model, loading = AutoModelForImageTextToText.from_pretrained(checkpoint, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert type(model) is LlavaOnevisionForConditionalGeneration
    start = load_llava()
    before = start.model.state_dict()
    moved = {start.part_of(name) for name, w in model.state_dict().items() if not torch.equal(w, before[name])}
    assert moved == {"vision", "projector", "text"} - set(freeze)


def test_two_steps_of_an_adapter_with_a_reference(load_llava: LoadModel, run_two_steps: Callable[..., Path]) -> None:
    checkpoint = run_two_steps({"lora": {"r": 4}}, {"name": "grpo", "alpha": False, "kl_coefficient": 0.04})
    first, second = (row["update"]["kl"] for row in read_metrics(Path("run")) if "update" in row)
    assert first == 0 < second
    weights = AutoModelForImageTextToText.from_pretrained(checkpoint).state_dict()
    assert any(float(weight.abs().max()) > 0 for name, weight in weights.items() if "lora_B" in name)
