"""Adapters: the packed gradient, what peft reads of a checkpoint, what is refused."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForImageTextToText

from gpg_vl.config import LoraConfig, ModelConfig
from gpg_vl.models import load_adapter
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.models.folder.saving import check_model_folder
from gpg_vl.models.plain_rows import plain_log_probs
from gpg_vl.records import TrainingGroup
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.hf import HfEngine
from gpg_vl.update.packing import build_micro_batch, plan_micro_batches
from gpg_vl.update.policy import PolicyForward
from gpg_vl.update.self_check import check_packing
from tests.support.builders import (
    FAMILIES,
    SMALL_IMAGES,
    make_prompt,
    make_sample,
    make_training_group,
    moved,
    whole,
)
from tests.support.messages import naming

LoadModel = Callable[..., QwenVLAdapter]
PARTS = (["text"], ["vision"], ["text", "vision"])


def make_groups(adapter: QwenVLAdapter) -> list[TrainingGroup]:
    shapes: list[tuple[list[tuple[int, int]], list[int]]] = [
        ([(84, 84)], [5, 1, 9]), ([(84, 56), (140, 84)], [4, 7]), ([], [6, 2]),
    ]  # fmt: skip
    return [
        make_training_group(adapter, make_sample(sizes, seed), lengths, seed)
        for seed, (sizes, lengths) in enumerate(shapes)
    ]


def gradients(adapter: QwenVLAdapter) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in adapter.model.named_parameters() if p.grad is not None}
    adapter.model.zero_grad()
    return found


def packed_gradients(adapter: QwenVLAdapter) -> dict[str, Tensor]:
    adapter.model.train()
    forward = PolicyForward(adapter, 1.0)
    for rows in plan_micro_batches(make_groups(adapter), 8192, 10_000):
        batch = build_micro_batch(rows, adapter)
        (batch.coefficients * forward(batch)).sum().backward()
    return gradients(adapter)


def plain_gradients(adapter: QwenVLAdapter) -> dict[str, Tensor]:
    for group in make_groups(adapter):
        for completion, coefficients in zip(group.completions, group.coefficients, strict=True):
            log_probs = plain_log_probs(adapter, group.prompt.encoded, completion, 1.0)
            if log_probs.requires_grad:  # not so without an image, where the tower alone has an adapter
                (log_probs * torch.tensor(coefficients)).sum().backward()
    return gradients(adapter)


def worst_relative_error(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys() and a
    return max(float((a[name] - b[name]).norm() / b[name].norm()) for name in a)


@pytest.mark.parametrize(
    ("family", "parts", "checkpointing"),
    [*((family, parts, False) for family in FAMILIES for parts in PARTS), ("qwen2_vl", ["text", "vision"], True)],
)
def test_packed_gradients_equal_plain_ones(load: LoadModel, family: str, parts: list[Any], checkpointing: bool) -> None:
    adapter = moved(load(family, lora=LoraConfig(r=4, parts=parts), gradient_checkpointing=checkpointing))
    found = packed_gradients(adapter)
    assert set(found) == {name for name, _ in adapter.trainable_parameters()}
    assert all("lora_" in name for name in found)
    assert {adapter.part_of(name) for name in found} == set(parts)
    assert worst_relative_error(found, plain_gradients(adapter)) < 1e-5


def test_gradient_is_that_of_the_merged_weights(
    load: LoadModel, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    """By the chain rule from the gradient of the whole weight: dA = s B^T dW, dB = s dW A^T."""
    adapter = moved(load(lora=LoraConfig(r=4, alpha=6.0, parts=["text", "vision"])))
    adapter.save(tmp_path)
    found = packed_gradients(adapter)
    whole = packed_gradients(load(path=str(tmp_path)))
    weights = {name: p.detach() for name, p in adapter.model.named_parameters()}
    for name in [n for n in found if "lora_A" in n]:
        other = name.replace("lora_A", "lora_B")
        whole_name = name.replace(".lora_A.default", "")
        expected_a = 1.5 * weights[other].T @ whole[whole_name]
        expected_b = 1.5 * whole[whole_name] @ weights[name].T
        assert float((found[name] - expected_a).norm() / expected_a.norm()) < 1e-4, name
        assert float((found[other] - expected_b).norm() / expected_b.norm()) < 1e-4, other


@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_layer_of_a_part_has_an_adapter(load: LoadModel, family: str) -> None:
    for parts in PARTS:
        adapter = load(family, lora=LoraConfig(r=4, parts=parts))  # type: ignore[arg-type]
        layers = {"text": "model.language_model.layers.", "vision": "model.visual.blocks."}
        linear = {
            name for name, module in load(family).model.named_modules()
            if isinstance(module, torch.nn.Linear) and name.startswith(tuple(layers[p] for p in parts))
        }  # fmt: skip
        adapted = {name.split(".lora_A")[0] for name, _ in adapter.trainable_parameters() if "lora_A" in name}
        assert adapted == linear
        assert len(adapted) >= 21 * ("text" in parts) + 8 * ("vision" in parts)


@pytest.mark.parametrize(
    ("target_modules", "adapted"),
    [
        (["q_proj", "v_proj"], {"self_attn.q_proj", "self_attn.v_proj"}),
        (["mlp.gate_proj"], {"mlp.gate_proj"}),
        (r".*\.(0|1)\.self_attn\.[kv]_proj", {"self_attn.k_proj", "self_attn.v_proj"}),
    ],
    ids=("two", "one", "a pattern"),
)
def test_target_modules_choose_among_the_layers_of_the_parts(
    load: LoadModel, tmp_path: Path, target_modules: Any, adapted: set[str]
) -> None:
    config = LoraConfig(r=4, target_modules=target_modules)
    adapter = moved(load(lora=config))
    names = {name.split(".lora_A")[0] for name, _ in adapter.trainable_parameters() if "lora_A" in name}
    assert {".".join(name.split(".")[-2:]) for name in names} == adapted
    assert all(name.startswith("model.language_model.layers.") for name in names), "the parts are the text alone"
    expected = peft.get_peft_model(load().model, peft.LoraConfig(target_modules=target_modules)).targeted_module_names
    assert names == {name for name in expected if name.startswith("model.language_model.layers.")}
    adapter.save(tmp_path)
    weights = dict(adapter.trainable_parameters())
    again = load(path=str(tmp_path), lora=config)
    assert all(torch.equal(each, weights[name]) for name, each in again.trainable_parameters())


def test_all_linear_is_every_layer(load: LoadModel) -> None:
    one, other = (load(lora=LoraConfig(r=4, target_modules=each)) for each in (None, "all-linear"))
    assert [name for name, _ in one.trainable_parameters()] == [name for name, _ in other.trainable_parameters()]


@pytest.mark.parametrize(
    ("target_modules", "named"), [(["q_proj", "query"], "query"), ("q_proj", "q_proj"), (["qkv"], "qkv")], ids=str
)
@pytest.mark.parametrize("with_weights", [False, True])
def test_target_modules_that_the_model_has_not_are_refused(
    model_folders: dict[str, Path], target_modules: Any, named: str, with_weights: bool
) -> None:
    """Before the weights are loaded; a vision layer is none of the text's."""
    lora = LoraConfig(target_modules=target_modules)
    config = ModelConfig(path=str(model_folders["qwen2_vl"]), lora=lora, **SMALL_IMAGES)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=naming("model.lora.target_modules", named, "text", "down_proj")) as caught:
        load_adapter(config, with_weights)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("target_modules", ["(", "(?i)q_proj", "", []], ids=str)
def test_target_modules_that_name_nothing_are_refused(target_modules: Any) -> None:
    with pytest.raises(ValueError, match=naming("model.lora.target_modules")):
        LoraConfig(target_modules=target_modules)


def test_fresh_adapter_changes_nothing_and_weights_are_float32(load: LoadModel) -> None:
    plain, adapter = load(), load(lora=LoraConfig(), dtype="bfloat16")
    assert {p.dtype for _, p in adapter.trainable_parameters()} == {torch.float32}
    group = make_groups(plain)[0]
    adapter.autocast_dtype = None
    for completion in group.completions:
        one, other = (plain_log_probs(a, group.prompt.encoded, completion, 1.0) for a in (plain, adapter))
        assert torch.equal(one, other)


def test_rollout_and_self_check_go_through_the_adapter(load: LoadModel) -> None:
    plain, adapter = load(), moved(load(lora=LoraConfig(parts=["text", "vision"])))
    assert check_packing(adapter, whole(make_groups(adapter)[1]), 0.7) < 1e-5
    prompt = make_prompt(adapter, make_sample([(84, 84)]))
    sampling = Sampling(max_new_tokens=4, temperature=0.0)
    [group] = HfEngine(adapter, 65536).generate([prompt], 1, sampling, [("s",)])
    [other] = HfEngine(plain, 65536).generate([prompt], 1, sampling, [("s",)])
    [completion] = group.completions
    assert completion.token_ids != other.completions[0].token_ids
    for position, token in enumerate(completion.token_ids):  # greedy: no other token is likelier, given the adapter
        hidden = replace(completion, token_ids=(*completion.token_ids[:position], token))
        with torch.no_grad():
            chosen = plain_log_probs(adapter, prompt.encoded, hidden, 1.0)[-1]
            rivals = [replace(hidden, token_ids=(*hidden.token_ids[:-1], rival)) for rival in range(8, 320, 13)]
            assert all(chosen >= plain_log_probs(adapter, prompt.encoded, rival, 1.0)[-1] for rival in rivals)


def test_saved_adapter_is_read_by_peft_and_transformers_and_merges(
    load: LoadModel, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    config = LoraConfig(r=4, parts=["text", "vision"])
    adapter = moved(load(lora=config))
    adapter.save(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 400_000
    group = make_groups(adapter)[0]

    def log_probs(model: Any) -> Tensor:
        view = load()
        view.model = model
        with torch.no_grad():
            return torch.cat([plain_log_probs(view, group.prompt.encoded, c, 1.0) for c in group.completions])

    expected = log_probs(adapter.model)
    assert (expected - log_probs(load().model)).abs().max() > 0.01
    base = AutoModelForImageTextToText.from_pretrained(model_folders["qwen2_vl"])
    models = {
        "peft": PeftModel.from_pretrained(base, tmp_path).base_model.model,
        "transformers": AutoModelForImageTextToText.from_pretrained(tmp_path),
        "the kit, going on": load(path=str(tmp_path), lora=config).model,
        "the kit, merged": load(path=str(tmp_path)).model,
    }
    for name, model in models.items():
        assert (log_probs(model) - expected).abs().max() < 1e-5, name
    assert not any("lora" in name for name, _ in models["the kit, merged"].named_parameters())


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (LoraConfig(r=8), ["r", 4, 8]),
        (LoraConfig(r=4, alpha=8.0), ["lora_alpha", 32, 8]),
        (LoraConfig(r=4, parts=["text", "vision"]), ["target_modules"]),
    ],
)
def test_another_adapter_is_refused(load: LoadModel, tmp_path: Path, other: LoraConfig, named: list[Any]) -> None:
    load(lora=LoraConfig(r=4)).save(tmp_path)
    with pytest.raises(ValueError, match=naming(tmp_path, *named)):
        load(path=str(tmp_path), lora=other)


def test_adapter_without_its_model_is_refused(load: LoadModel, tmp_path: Path) -> None:
    load(lora=LoraConfig(r=4)).save(tmp_path)
    path = tmp_path / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"base_model_name_or_path": "/gone/model"}))
    with pytest.raises(ValueError, match=naming(tmp_path, "/gone/model")):
        load_adapter(ModelConfig(path=str(tmp_path), **SMALL_IMAGES))  # type: ignore[arg-type]
    path.write_text(json.dumps(config | {"base_model_name_or_path": None}))
    with pytest.raises(ValueError, match=naming(tmp_path)):
        load(path=str(tmp_path))


def test_dropout_and_freeze_are_refused() -> None:
    with pytest.raises(ValueError, match=naming("model.lora.dropout")):
        LoraConfig(dropout=0.1)
    with pytest.raises(ValueError, match=naming("model.lora", "model.freeze")):
        ModelConfig(lora=LoraConfig(), freeze=["vision"])


# --- an adapter from elsewhere is data ---


@pytest.fixture
def adapter_folder(load: LoadModel, tmp_path: Path) -> Path:
    load(lora=LoraConfig(r=4)).save(tmp_path / "a")
    return tmp_path / "a"


def change(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"megatron_config": {"a": 1}, "megatron_core": "evil"}, "megatron_config"),
        ({"auto_mapping": None, "layer_replication": [[0, 1]]}, "layer_replication"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"peft_type": "VERA"}, "VERA"),
        ({"peft_type": None}, "None"),
        ({"a_key_of_tomorrow": True}, "a_key_of_tomorrow"),
        ({"target_modules": "(a*)*b|" + "(.*" * 30 + ")" * 30 + "x"}, "pattern"),
        ({"target_modules": r"((\w|\.)+)+!"}, "pattern"),
        ({"target_modules": "("}, "pattern"),
        ({"rank_pattern": {"((a|b|.)+)+!": 4}}, "pattern"),
    ],
    ids=str,
)
def test_an_adapters_config_asks_for_nothing_that_the_kit_does_not_do(
    load: LoadModel, adapter_folder: Path, values: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpg_vl.models.weights.lora._SECONDS_TO_MATCH", 1.0)
    change(adapter_folder, **values)
    for read in (lambda: load(path=str(adapter_folder)), lambda: check_model_folder(adapter_folder)):
        start = time.monotonic()
        with pytest.raises(ValueError, match=naming(adapter_folder / "adapter_config.json", named)) as caught:
            read()
        assert "\n" not in str(caught.value)
        assert time.monotonic() - start < 60


def test_an_adapters_weights_are_not_unpickled(load: LoadModel, adapter_folder: Path) -> None:
    weights = adapter_folder / "adapter_model.safetensors"
    torch.save(load_file(weights), adapter_folder / "adapter_model.bin")
    weights.unlink()
    for config in (None, LoraConfig(r=4)):
        with pytest.raises(ValueError, match=naming("model.path", "adapter_model.safetensors")):
            load(path=str(adapter_folder), lora=config)


@pytest.mark.parametrize(
    "content", ["[]", "{", "[" * 100_000, '{"base_model_name_or_path": 7}'], ids=["a", "b", "c", "d"]
)
def test_an_adapters_config_that_cannot_be_read_is_named(load: LoadModel, adapter_folder: Path, content: str) -> None:
    (adapter_folder / "adapter_config.json").write_text(content)
    with pytest.raises(ValueError, match=naming("model.path", adapter_folder / "adapter_config.json")):
        load(path=str(adapter_folder))


def test_an_adapters_base_is_a_folder_that_exists_or_a_name_on_the_hub(
    load: LoadModel, adapter_folder: Path, model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(adapter_folder.parent)
    (adapter_folder.parent / "models").mkdir()
    (adapter_folder.parent / "models/base").symlink_to(model_folders["qwen2_vl"])
    change(adapter_folder, base_model_name_or_path="models/base")
    load(path=str(adapter_folder))
    for base in ("models/gone", "../models/base", "a/b/c", "models/../models/base"):
        change(adapter_folder, base_model_name_or_path=base)
        with pytest.raises(ValueError, match=naming("model.path", base)):
            load(path=str(adapter_folder))
    change(adapter_folder, base_model_name_or_path=str(adapter_folder))
    with pytest.raises(ValueError, match=naming("model.path", "an adapter")):
        load(path=str(adapter_folder))
