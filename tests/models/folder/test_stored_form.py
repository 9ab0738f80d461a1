"""Saved weights have the names and shapes of published ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForImageTextToText
from transformers.core_model_loading import revert_weight_conversion

from gpg_vl.models import load_adapter, tiny
from gpg_vl.models.folder.carried_weights import stored_names
from gpg_vl.models.tiny import TINY_FAMILIES, write_tiny_model
from tests.support.families import CASES, load_case, skip_unless_installed

PREFIXED = ("gemma3", "paligemma", "llava_onevision", "lfm2_vl")
"""Families with a SigLIP tower: published files have its weights below ``vision_model``."""


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    return lambda family: write_tiny_model(tmp_path / family, family, tie_word_embeddings=CASES[family].is_tied)


@pytest.mark.parametrize("is_published", [True, False])
@pytest.mark.parametrize("family", PREFIXED)
def test_the_prefix_of_a_tower_is_kept(
    write: Callable[[str], Path], tmp_path: Path, family: str, is_published: bool
) -> None:
    skip_unless_installed(CASES[family])
    folder = write(family)
    found = weights(folder)
    assert any("vision_tower.vision_model.encoder" in name for name in found)
    if not is_published:
        found = {name.replace("vision_tower.vision_model.", "vision_tower."): each for name, each in found.items()}
        save_file(found, folder / "model.safetensors", metadata={"format": "pt"})
    adapter = load_case(CASES[family], folder)
    adapter.save(tmp_path / "saved")
    again = weights(tmp_path / "saved")
    assert again.keys() == found.keys()
    assert all(torch.equal(again[name], each) for name, each in found.items())


@pytest.mark.parametrize("family", CASES)
def test_a_model_without_values_has_the_names_of_its_folder(write: Callable[[str], Path], family: str) -> None:
    """As on the ranks that get their weights from the first one; each of them may hand them to an engine."""
    skip_unless_installed(CASES[family])
    folder = write(family)
    config = load_case(CASES[family], folder).config
    for with_values in (True, False):
        model = load_adapter(config, with_values=with_values).model
        stored = revert_weight_conversion(model, dict(model.state_dict()))
        tied = {name for name in stored if name not in weights(folder)}
        assert all("lm_head" in name or "shared" in name for name in tied)
        assert {name: each.shape for name, each in stored.items() if name not in tied} == {
            name: each.shape for name, each in weights(folder).items()
        }


@pytest.mark.parametrize("family", ["gemma3", "qwen3_vl_moe"])
def test_where_the_files_are_not_here_yet_names_are_the_published_ones(
    write: Callable[[str], Path], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another rank downloads them."""
    folder = write(family)
    expected = {name: each.shape for name, each in weights(folder).items()}
    config = load_case(CASES[family], folder).config
    (folder / "model.safetensors").unlink()
    model = load_adapter(config, with_values=False).model
    stored = {name: each.shape for name, each in revert_weight_conversion(model, dict(model.state_dict())).items()}
    assert {name: shape for name, shape in stored.items() if "lm_head" not in name or name in expected} == expected


def test_an_index_names_the_weights_of_files_that_are_not_here_yet(write: Callable[[str], Path]) -> None:
    folder = write("gemma3")
    names = sorted(weights(folder))
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "model-00001-of-00002.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert sorted(stored_names(str(folder))) == names


def with_experts_of(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    family = TINY_FAMILIES["qwen3_vl_moe"]

    def resized(tokenizer: Any) -> Any:
        config = family.config(tokenizer)
        config.text_config.moe_intermediate_size = size
        return config

    monkeypatch.setitem(tiny.TINY_FAMILIES, "qwen3_vl_moe", replace(family, config=resized))


@pytest.mark.parametrize("size", [96, 128, 64])
def test_experts_are_turned_as_published(
    write: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Published files have inputs before outputs, as vLLM reads them; transformers goes by shapes when it loads.

    A square matrix is taken as it is, since nothing tells which way round it is: ``down`` of 128, ``gate_up`` of 64.
    """
    with_experts_of(size, monkeypatch)
    folder = write("qwen3_vl_moe")
    name = "model.language_model.layers.0.mlp.experts."
    shapes = {"gate_up_proj": (4, 128, 2 * size), "down_proj": (4, size, 128)}
    adapter = load_case(CASES["qwen3_vl_moe"], folder)
    adapter.save(tmp_path / "saved")
    plain = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    own = dict(adapter.model.named_parameters())
    for found in (weights(folder), weights(tmp_path / "saved")):
        for key, (experts, inputs, outputs) in shapes.items():
            held = own[name + key]
            assert held.shape == (experts, outputs, inputs)
            is_square = inputs == outputs
            assert torch.equal(found[name + key], held if is_square else held.transpose(1, 2))
            assert torch.equal(plain.get_parameter(name + key), held)


def test_files_that_transformers_wrote_the_other_way_round_are_read(
    write: Callable[[str], Path], tmp_path: Path
) -> None:
    """And saved as published."""
    published = write("qwen3_vl_moe")
    other = shutil.copytree(published, tmp_path / "other")
    turned = {
        name: each.transpose(1, 2).contiguous() if ".experts." in name else each
        for name, each in weights(published).items()
    }
    save_file(turned, other / "model.safetensors", metadata={"format": "pt"})
    adapter = load_case(CASES["qwen3_vl_moe"], other)
    adapter.save(tmp_path / "saved")
    again = weights(tmp_path / "saved")
    assert all(torch.equal(again[name], each) for name, each in weights(published).items())
