"""A preference head as a file: what it scores, and what it is refused for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from gpg_vl.config import ModelConfig
from gpg_vl.learned.head import PreferenceHead, load_head, save_head
from gpg_vl.learned.preferences import fit_scale
from tests.support.messages import naming


def test_the_head_scores_states_as_the_scale_and_w_do(tmp_path: Path, model_folders: dict[str, Path]) -> None:
    generator = torch.Generator().manual_seed(0)
    answers = [torch.randn(4, 5, generator=generator) for _ in range(6)]
    scale, w = fit_scale(answers), torch.randn(5, generator=generator, dtype=torch.float64)
    model = ModelConfig(path=str(model_folders["qwen2_vl"]))
    save_head(PreferenceHead.of(scale, w), tmp_path, model, {"labels": 3})
    found = load_head(tmp_path, model)
    for each in answers:
        assert found.values(each) == pytest.approx(torch.sigmoid(scale.apply(each) @ w).tolist())


def test_a_head_of_other_states_is_refused(tmp_path: Path, model_folders: dict[str, Path]) -> None:
    model = ModelConfig(path=str(model_folders["qwen2_vl"]))
    save_head(PreferenceHead(torch.ones(3, dtype=torch.float64), 0.0), tmp_path, model, {})
    other = ModelConfig(path=str(model_folders["qwen2_5_vl"]))
    with pytest.raises(ValueError, match=naming("rewards.preference", "model.path", "qwen2_5_vl")):
        load_head(tmp_path, other)
    with pytest.raises(ValueError, match=naming("rewards.preference", "model.max_pixels", "50176")):
        load_head(tmp_path, ModelConfig(path=model.path, max_pixels=50176))
    moved = shutil.copytree(model.path, tmp_path / "moved")
    load_head(tmp_path, ModelConfig(path=str(moved)))
    with pytest.raises(ValueError, match=naming("rewards.preference", "gone", "gpg-vl prefer")):
        load_head(tmp_path / "gone", model)
    (tmp_path / "head.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match=naming("rewards.preference", str(tmp_path))):
        load_head(tmp_path, model)
