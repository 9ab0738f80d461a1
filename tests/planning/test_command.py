"""``gpg-vl plan`` as a user runs it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from gpg_vl.cli import main
from gpg_vl.data.sources import write_parquet
from gpg_vl.planning.cards import CARDS
from tests.support.builders import SMALL_IMAGES, make_sample
from tests.support.messages import lines_naming


@pytest.fixture
def recipe_file(model_folders: dict[str, Path], tmp_path: Path) -> Path:
    write_parquet([make_sample(((200, 100 + 30 * n),), n) for n in range(4)], tmp_path / "rows.parquet")
    recipe = {
        "model": {"path": str(model_folders["qwen2_vl"]), **SMALL_IMAGES},
        "data": {"train": [str(tmp_path / "rows.parquet")]},
        "rollout": {"prompts_per_step": 2, "group_size": 2, "max_new_tokens": 8},
        "run": {"output_dir": str(tmp_path / "run")},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    return path


def test_a_plan_says_everything_in_80_columns(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", str(recipe_file), "--gpu", "l4-24", "--gpus", "2", "--sharding", "zero2"]
    assert main([*words, "--run.output_dir", "runs/mine"]) == 0
    text = capsys.readouterr().out
    assert [line for line in text.splitlines() if len(line) > 80] == []
    for word in ("2 x l4-24", "rows", "weights", "budgets", "cheapest layout that fits: none", "rollout", "hours",
                 "disk", "FLOPs"):  # fmt: skip
        assert word in text, word
    assert not (recipe_file.parent / "run").exists()


def test_a_supervised_run_samples_nothing(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One gold completion a prompt, and no seconds of a rollout."""
    for name in ("gpg", "supervised"):
        assert main(["plan", str(recipe_file), "--gpu", "l4-24", "--objective.name", name]) == 0
    sampled, gold = capsys.readouterr().out.split("a group", 2)[1:]
    assert "prompt + 2 x 8" in sampled and "prompt + 1 x 8" in gold
    _, seconds = gold.split("a step  ")
    assert "0.00e+00 FLOPs in the rollout" in seconds and not re.search(r"^ +rollout", seconds, re.MULTILINE)


def test_a_step_is_measured(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(recipe_file), "--measure"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("measured here", "estimated", "rollout", "update", "tokens sampled"))


def test_a_step_with_shared_weights_is_not_measured(
    recipe_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPG_VL_SHARDING", "fsdp")
    accelerator = SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=None))
    monkeypatch.setattr("gpg_vl.planning.command.start_ranks", lambda **words: accelerator)
    assert main(["plan", str(recipe_file), "--measure"]) == 2
    assert lines_naming(capsys.readouterr().err, "--measure", "FSDP2", "SHARDING=none")


@pytest.mark.parametrize(
    ("words", "known"),
    [
        (["--gpu", "h100"], CARDS),
        (["--sharding", "zero9"], ("none", "zero3_offload")),
        (["--gpus", "0"], ("--gpus",)),
        (["--gpus", "2x"], ("--gpus", "2x8")),
        (["--gpus", "12", "--sharding", "hsdp"], ("--gpus", "12", "HSDP", "2x8", "--sharding fsdp")),
        (["--host-gb", "0.5TB"], ("--host-gb", "0.5TB", "512")),
        (["--host-gb", "512", "--measure"], ("--measure", "--host-gb")),
        (["--sharding", "fsdp", "--model.lora", "{quantize: nf4}"], ("model.lora.quantize", "SHARDING=none")),
        (["--sharding", "fsdp", "--update.optimizer", "adamw_8bit"], ("update.optimizer", "FSDP2", "SHARDING=none")),
        (["--sharding", "fsdp", "--measure"], ("--measure", "--sharding")),
        (["--gpu", "l4-24", "--measure"], ("--measure", "--gpu")),
        (["--gpus", "2", "--measure"], ("--measure", "--gpus")),
    ],
)
def test_what_is_not_known_is_one_line(
    recipe_file: Path, capsys: pytest.CaptureFixture[str], words: list[str], known: list[str]
) -> None:
    assert main(["plan", str(recipe_file), *words]) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert all(name in said for name in known)
