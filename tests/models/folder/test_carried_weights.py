"""Weights that the model's class does not load are in a saved folder as they were in the base."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForImageTextToText

from gpg_vl.commands.merge import merge
from gpg_vl.config import LoraConfig, ModelConfig, Recipe
from gpg_vl.models import load_adapter
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.models.folder.carried_weights import CARRIED_FILE
from gpg_vl.models.folder.saving import check_model_folder, save_model
from gpg_vl.models.tiny import write_tiny_model

LoadModel = Callable[..., QwenVLAdapter]
INDEX = "model.safetensors.index.json"


@pytest.fixture
def extra() -> dict[str, Tensor]:
    """As published folders have them, in another precision than the kit's."""
    return {
        "mtp.layers.0.weight": torch.randn(4, 6).bfloat16(),
        "mtp.norm.weight": torch.randn(6).half(),
        "value_head.bias": torch.randn(3),
    }


@pytest.fixture
def base(model_folders: dict[str, Path], tmp_path: Path, extra: dict[str, Tensor]) -> Path:
    folder = shutil.copytree(model_folders["qwen2_vl"], tmp_path / "base")
    path = folder / "model.safetensors"
    save_file({**load_file(path), **extra}, path, metadata={"format": "pt"})
    return folder


def stored(folder: Path) -> dict[str, Tensor]:
    """All weights by the folder's index."""
    names = json.loads((folder / INDEX).read_text())["weight_map"]
    found = {name: load_file(folder / file)[name] for name, file in names.items()}
    in_files = [name for file in folder.glob("*.safetensors") for name in load_file(file)]
    assert sorted(in_files) == sorted(found), "the index names every weight, each once"
    return found


@pytest.mark.parametrize("is_split", [False, True])
def test_weights_that_no_class_loads_are_carried_over(
    load: LoadModel,
    base: Path,
    extra: dict[str, Tensor],
    tmp_path: Path,
    is_split: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    adapter = load(path=str(base))
    shutil.rmtree(base)  # as a checkpoint that a later one replaces
    with torch.no_grad():
        next(iter(adapter.model.parameters())).add_(1)
    first = tmp_path / "first"
    first.mkdir()
    if is_split:
        save = type(adapter.model).save_pretrained
        monkeypatch.setattr(
            type(adapter.model), "save_pretrained", lambda self, into: save(self, into, max_shard_size="2MB")
        )
    save_model(adapter, first, Recipe(), {})
    again = tmp_path / "again"
    again.mkdir()
    save_model(load(path=str(first)), again, Recipe(), {})
    for folder in (first, again):
        found = stored(folder)
        assert {name: tensor.dtype for name, tensor in found.items() if name in extra} == {
            name: tensor.dtype for name, tensor in extra.items()
        }
        assert all(torch.equal(found[name], tensor) for name, tensor in extra.items())
        size = json.loads((folder / INDEX).read_text())["metadata"]["total_size"]
        assert size == sum(tensor.nbytes for tensor in found.values())
        check_model_folder(folder)
        model, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
        assert not info["missing_keys"] and not info["mismatched_keys"]
        plain = model.state_dict()
        assert all(torch.equal(tensor, plain[name]) for name, tensor in adapter.model.state_dict().items())
    save_file({"stray": torch.zeros(3)}, first / "model-stray.safetensors", metadata={"format": "pt"})
    index = json.loads((first / INDEX).read_text())
    index["weight_map"]["stray"] = "model-stray.safetensors"
    (first / INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match="stray"):
        check_model_folder(first)


def test_a_weight_that_transformers_renames_is_carried_under_the_files_name(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    """A published Qwen2.5-VL has ``model.layers...``, which is ``model.language_model.layers...`` in its class."""
    base, extra = tmp_path / "base", {"model.layers.0.extra_gate": torch.randn(3), "visual.extra": torch.randn(2)}
    shutil.copytree(model_folders["qwen2_5_vl"], base)
    weights = load_file(base / "model.safetensors")
    published = {name.replace("model.language_model.", "model."): each for name, each in weights.items()}
    assert any(name.startswith("model.layers.") for name in published)
    save_file({**published, **extra}, base / "model.safetensors", metadata={"format": "pt"})
    adapter = load_adapter(ModelConfig(path=str(base), dtype="float32"))
    for folder in (tmp_path / "first", tmp_path / "again"):
        save_model(adapter, folder, Recipe(), {})
        found = stored(folder)
        assert all(torch.equal(found[name], tensor) for name, tensor in extra.items())
        assert load_file(folder / CARRIED_FILE).keys() == extra.keys()
        adapter = load_adapter(ModelConfig(path=str(folder), dtype="float32"))


def test_a_folder_without_other_weights_and_an_adapter_have_none(load: LoadModel, base: Path, tmp_path: Path) -> None:
    plain, lora = tmp_path / "plain", tmp_path / "lora"
    for folder in (plain, lora):
        folder.mkdir()
    load().save(plain)
    load(path=str(base), lora=LoraConfig(r=4)).save(lora)
    for folder in (plain, lora):
        assert not (folder / CARRIED_FILE).exists() and not (folder / INDEX).exists()
    assert (plain / "model.safetensors").is_file()


def test_qwen3_5_keeps_its_other_heads_whole_and_merged(tmp_path: Path, extra: dict[str, Tensor]) -> None:
    """Its class passes ``mtp.*`` over without a word when it loads."""
    base, whole, lora, merged = (tmp_path / name for name in ("base", "whole", "lora", "merged"))
    write_tiny_model(base, "qwen3_5", seed=1)
    path = base / "model.safetensors"
    save_file({**load_file(path), **extra}, path, metadata={"format": "pt"})
    for folder, config in ((whole, None), (lora, LoraConfig(r=4))):
        folder.mkdir()
        load_adapter(ModelConfig(path=str(base), dtype="float32", lora=config)).save(folder)
    merge(Recipe(model=ModelConfig(path=str(lora), dtype="float32", lora=LoraConfig(r=4))), merged)
    for folder in (whole, merged):
        found = stored(folder)
        assert all(torch.equal(found[name], tensor) for name, tensor in extra.items())
        check_model_folder(folder)


@pytest.mark.parametrize("is_tied", [True, False])
def test_heads_stay_tied_or_untied(load: LoadModel, tmp_path: Path, is_tied: bool) -> None:
    base = write_tiny_model(tmp_path / "base", seed=2, tie_word_embeddings=is_tied)
    adapter, folder = load(path=str(base)), tmp_path / "saved"
    folder.mkdir()
    with torch.no_grad():
        adapter.head_weight.add_(0.5)
    save_model(adapter, folder, Recipe(), {})
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert torch.equal(model.lm_head.weight, adapter.head_weight)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) is is_tied
    assert ("lm_head.weight" in load_file(folder / "model.safetensors")) is not is_tied
