"""What a saved model holds, and what the check of it finds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gpg_vl.config import LoraConfig, ModelConfig, Recipe
from gpg_vl.models import load_adapter
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.models.folder.saving import begin_model, check_model_folder, read_headers, save_model, write_weights
from gpg_vl.models.tiny import write_tiny_model
from tests.support.builders import SMALL_IMAGES
from tests.support.families import CASES, load_case, skip_unless_installed
from tests.support.family_lora import lora_of
from tests.support.messages import naming

LoadModel = Callable[..., QwenVLAdapter]


def saved(load: LoadModel, folder: Path, base: Path, lora: LoraConfig | None, family: str = "qwen2_vl") -> Path:
    recipe = Recipe(model=ModelConfig(path=str(base), lora=lora, **SMALL_IMAGES))  # type: ignore[arg-type]
    save_model(load(family, lora=lora), folder, recipe, {"reward": 0.25, "eval": {"counting": {"value": 0.5}}})
    return folder


@pytest.mark.parametrize("lora", [None, LoraConfig(r=4, parts=["text", "vision"])], ids=["whole", "lora"])
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_saved_model_is_complete_and_has_a_card(
    load: LoadModel, model_folders: dict[str, Path], tmp_path: Path, lora: LoraConfig | None, family: str
) -> None:
    folder = saved(load, tmp_path / "model", model_folders[family], lora, family)
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: " + ("transformers" if lora is None else "peft"))
    assert "| reward | 0.25 |\n| eval/counting/value | 0.5 |" in card
    assert f"path: {model_folders[family]}" in card
    state = torch.get_rng_state()
    check_model_folder(folder)
    assert torch.equal(torch.get_rng_state(), state), "a save must not change what the run draws next"


@pytest.mark.parametrize("has_lora", [False, True], ids=["whole", "lora"])
@pytest.mark.parametrize("family", CASES)
def test_every_family_is_saved_and_checked(tmp_path: Path, family: str, has_lora: bool) -> None:
    """Also one without a chat template; a checkpoint that is written in the background has the same tensors."""
    case = CASES[family]
    skip_unless_installed(case)
    base = write_tiny_model(tmp_path / "base", family, 1, tie_word_embeddings=case.is_tied)
    lora, folder, later = lora_of(case) if has_lora else None, tmp_path / "saved", tmp_path / "later"
    adapter = load_case(case, base, lora=lora)
    save_model(adapter, folder, Recipe(), {})
    later.mkdir()
    begin_model(adapter, later, Recipe(), {})
    write_weights(adapter.take_snapshot(is_copy=False), later, read_headers(folder))
    check_model_folder(later, needs_template=adapter.has_chat_template())
    if lora is not None:
        assert load_case(case, folder, lora=lora).num_parameters() == adapter.num_parameters()
    assert adapter.has_chat_template() is (family != "paligemma")


def test_layers_that_peft_takes_for_experts_are_refused(tmp_path: Path) -> None:
    """It would adapt the experts in place of the linear layers, and the kit could not read what was saved."""
    lora_of(CASES["glm4v_moe"])
    folder = write_tiny_model(tmp_path / "m", "glm4v_moe", 1)
    for parts in (["text"], ["vision"]):
        with pytest.raises(ValueError, match=naming("model.lora.target_modules", "glm4v_moe", "give a list")) as raised:
            load_adapter(ModelConfig(path=str(folder), lora=LoraConfig(r=4, parts=parts)))  # type: ignore[arg-type]
        named = str(raised.value).rpartition("a list of ")[2].split(", ")
        lora = LoraConfig(r=4, parts=parts, target_modules=named)  # type: ignore[arg-type]
        adapter = load_adapter(ModelConfig(path=str(folder), lora=lora))
        ends = {name.split(".lora_")[0].rpartition(".")[2] for name, _ in adapter.trainable_parameters()}
        assert ends == set(named) == ({"q_proj", "k_proj", "v_proj", "o_proj"} if parts == ["text"] else {"qkv"})


def drop(tensors: dict[str, torch.Tensor], name: str) -> None:
    del tensors[name]


def cut(tensors: dict[str, torch.Tensor], name: str) -> None:
    tensors[name] = tensors[name][:3].clone()


def halve(tensors: dict[str, torch.Tensor], name: str) -> None:
    tensors[name] = tensors[name].bfloat16()


def add(tensors: dict[str, torch.Tensor], name: str) -> None:
    tensors["stray"] = torch.zeros(3)


@pytest.mark.parametrize("damage", [drop, cut, halve, add])
@pytest.mark.parametrize("lora", [None, LoraConfig(r=4)], ids=["whole", "lora"])
def test_a_tensor_that_is_not_the_configs_is_named(
    load: LoadModel, model_folders: dict[str, Path], tmp_path: Path, damage: Callable, lora: LoraConfig | None
) -> None:
    folder = saved(load, tmp_path / "model", model_folders["qwen2_vl"], lora)
    path = folder / ("model.safetensors" if lora is None else "adapter_model.safetensors")
    tensors = load_file(path)
    name = sorted(tensors)[1]  # not the embedding, to which the head is tied
    damage(tensors, name)
    save_file(tensors, path, metadata={"format": "pt"})
    named = "stray" if damage is add else name.removeprefix("model.")
    with pytest.raises(ValueError, match=named.replace(".", r"\.")):
        check_model_folder(folder)


@pytest.mark.parametrize("file", ["generation_config.json", "chat_template.jinja", "tokenizer.json"])
def test_a_missing_file_is_found(load: LoadModel, model_folders: dict[str, Path], tmp_path: Path, file: str) -> None:
    folder = saved(load, tmp_path / "model", model_folders["qwen2_vl"], None)
    (folder / file).unlink()
    with pytest.raises(ValueError, match=str(folder)):
        check_model_folder(folder)
