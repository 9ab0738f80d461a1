"""What `gpg-vl doctor` tries with the libraries, and what it says where one computes something else or fails."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gpg_vl.commands.machine_trials import check_attention, check_device, run_self_test
from gpg_vl.config import Recipe
from gpg_vl.models.packed import grouped_attention
from gpg_vl.train import train
from tests.support.messages import lines_naming


def test_the_device_is_named() -> None:
    found = check_device()
    assert found.text.startswith("device cuda:0" if torch.cuda.is_available() else "device cpu")
    assert found.state == ("ok" if torch.cuda.is_available() else "missing")


def test_every_attention_is_tried(model_folders: dict[str, Path]) -> None:
    found = list(check_attention(model_folders["qwen2_vl"]))
    assert [each.text.split()[1].rstrip(":") for each in found] == ["sdpa", "grouped_sdpa", "eager", "flex_attention"]
    assert [each.state for each in found[:3]] == ["ok"] * 3
    assert found[3].state == ("ok" if torch.cuda.is_available() else "missing")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU does without grouped_sdpa")
def test_an_attention_that_computes_something_else_fails(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = grouped_attention._attend
    monkeypatch.setattr(grouped_attention, "_attend", lambda batch, query, *rest: right(batch, query * 1.5, *rest))
    states = {each.text.split()[1].rstrip(":"): each.state for each in check_attention(model_folders["qwen2_vl"])}
    assert states["grouped_sdpa"] == "fails", "a run on a CPU uses it"
    assert states["sdpa"] == states["eager"] == "ok"


def test_the_self_test_trains_one_step(
    model_folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run_self_test(train, model_folders["qwen2_vl"], tmp_path)
    assert found.state == "ok", found.text
    assert (tmp_path / "run/checkpoint-1/model.safetensors").is_file()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("error", [ValueError("no\nrows"), RuntimeError("CUDA error"), ImportError("libcudart.so")])
def test_a_step_that_fails_is_said_in_a_line(model_folders: dict[str, Path], tmp_path: Path, error: Exception) -> None:
    def fail(recipe: Recipe) -> Path:
        raise error

    found = run_self_test(fail, model_folders["qwen2_vl"], tmp_path)
    assert found.state == "fails" and lines_naming(found.text, str(error).splitlines()[0])
    assert "\n" not in str(found)
