"""`gpg-vl doctor` and `gpg-vl merge`: what they say of a checkpoint and of the machine."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gpg_vl.cli import main
from gpg_vl.config import LoraConfig, ModelConfig, Recipe
from gpg_vl.models.qwen_vl import QwenVLAdapter
from gpg_vl.models.saving import save_model
from tests.support.builders import SMALL_IMAGES
from tests.support.messages import lines_naming, naming

LoadModel = Callable[..., QwenVLAdapter]


def test_doctor_reloads_and_lets_it_answer(
    load: LoadModel, model_folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "adapter"
    config = ModelConfig(path=str(model_folders["qwen2_vl"]), lora=LoraConfig(r=4), **SMALL_IMAGES)  # type: ignore[arg-type]
    save_model(load(lora=config.lora), folder, Recipe(model=config), {})
    assert main(["merge", str(folder), str(tmp_path / "merged")]) == 0
    for path, kind in ((folder, f"adapter of {model_folders['qwen2_vl']}"), (tmp_path / "merged", "weights")):
        capsys.readouterr()
        assert main(["doctor", "--checkpoint", str(path)]) == 0
        out = capsys.readouterr().out.splitlines()
        assert re.search(naming(kind, "names", "shapes", "types"), out[0])
        assert out[1].startswith("completion: '") and len(out[1]) > 20
    assert not list((tmp_path / "merged").glob("adapter*"))
    assert main(["merge", str(folder), str(tmp_path / "merged")]) == 2
    assert lines_naming(capsys.readouterr().err, tmp_path / "merged")
    assert main(["merge", str(tmp_path / "merged"), str(tmp_path / "again")]) == 2
    assert lines_naming(capsys.readouterr().err, tmp_path / "merged", "adapter")
    config = json.loads((tmp_path / "merged/config.json").read_text())
    config["text_config"]["hidden_size"] = 64
    (tmp_path / "merged/config.json").write_text(json.dumps(config))
    assert main(["doctor", "--checkpoint", str(tmp_path / "merged")]) == 2
    assert lines_naming(capsys.readouterr().err, "config.json", "mismatched")


def test_doctor_describes_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert f"torch {torch.__version__.split('+')[0]}" in out
    assert "device c" in out
