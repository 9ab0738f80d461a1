"""bfloat16 weights: what they cost, what is cast, that gradients and steps stay exact, what is saved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForImageTextToText

from gpg_vl.config import LoraConfig
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.models.folder.saving import check_model_folder
from gpg_vl.models.plain_rows import plain_log_probs
from gpg_vl.models.tiny import write_tiny_model
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.hf import HfEngine
from gpg_vl.update.packing import build_micro_batch
from gpg_vl.update.policy import PolicyForward, packed_log_probs
from tests.support.builders import FAMILIES, make_prompt, make_sample, make_training_group, whole
from tests.support.families import CASES, load_case, skip_unless_installed
from tests.support.family_lora import lora_of

LoadModel = Callable[..., QwenVLAdapter]
LORA = LoraConfig(r=4, parts=["text", "vision"])


def rounded(load: LoadModel, family: str = "qwen2_vl", **config: Any) -> QwenVLAdapter:
    adapter = load(family, dtype="bfloat16", **config)
    adapter.round_weights()
    return adapter


def weights(adapter: QwenVLAdapter) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in adapter.model.named_parameters()}


def gradient(adapter: QwenVLAdapter, times: int = 1) -> Tensor:
    """Of all trained weights, in float64; in as many equal passes."""
    batch = build_micro_batch(whole(make_training_group(adapter, make_sample([(84, 84)]), [4, 7, 2])), adapter)
    for _, each in adapter.trainable_parameters():
        each.grad = None
    for _ in range(times):
        (PolicyForward(adapter, 1.0)(batch) * batch.coefficients).sum().backward()
    found = [each.grad for _, each in adapter.trainable_parameters() if each.grad is not None]
    assert {each.dtype for each in found} == {torch.float32}
    return torch.cat([each.flatten().double() for each in found])


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("model", [{"lora": LORA}, {"freeze": ["vision", "projector"]}], ids=["lora", "freeze"])
def test_a_frozen_weight_costs_two_bytes_and_a_trained_one_has_a_master(
    load: LoadModel, family: str, model: dict[str, Any]
) -> None:
    adapter = rounded(load, family, **model)
    frozen = [p for p in adapter.model.parameters() if not p.requires_grad]
    held = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in frozen}
    assert sum(held.values()) / sum(p.numel() for p in frozen) <= 2.2
    trained = {name: p for name, p in adapter.model.named_parameters() if p.requires_grad}
    masters = dict(adapter.trainable_parameters())
    assert masters.keys() == trained.keys() and trained
    for name, master in masters.items():
        assert master.dtype == torch.float32 and torch.equal(master.bfloat16(), trained[name])


class _Casts(TorchDispatchMode):
    """Counts the casts of a model's weights."""

    def __init__(self, adapter: QwenVLAdapter):
        super().__init__()
        self._weights = {each.untyped_storage().data_ptr() for each in adapter.model.parameters()}
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default:
            self.count += args[0].untyped_storage().data_ptr() in self._weights
        return func(*args, **(kwargs or {}))


def casts(adapter: QwenVLAdapter, num_tokens: int) -> int:
    prompt, sampling = make_prompt(adapter, make_sample([(84, 84)])), Sampling(num_tokens, temperature=1.0)
    with _Casts(adapter) as counted:
        [group] = HfEngine(adapter, 65536).generate([prompt], 2, sampling, [("s",)])
    assert max(len(completion.token_ids) for completion in group.completions) == num_tokens
    return counted.count


@pytest.mark.parametrize("lora", [None, LORA], ids=["whole", "lora"])
def test_no_weight_is_cast_in_a_decode_step(load: LoadModel, lora: LoraConfig | None) -> None:
    adapter = rounded(load, lora=lora)
    assert casts(adapter, 2) == casts(adapter, 5) == 1, "the head, once for all steps"
    by_autocast = load(dtype="bfloat16", lora=lora)
    few, many = casts(by_autocast, 2), casts(by_autocast, 5)
    assert few > 40, "every linear layer"
    assert (many > few + 40) == (lora is not None), "autocast keeps those of trained weights over a rollout, not others"


@pytest.mark.parametrize("model", [{}, {"lora": LORA}, {"gradient_checkpointing": True}], ids=str)
def test_gradients_are_as_near_to_float32_as_those_of_autocast(load: LoadModel, model: dict[str, Any]) -> None:
    exact, cast, low = load(**model), load(dtype="bfloat16", **model), load(dtype="bfloat16", **model)
    low.round_weights()
    expected = gradient(exact)
    of_cast, of_low = distance(gradient(cast), expected), distance(gradient(low), expected)
    assert 0 < of_low < max(2 * of_cast, 0.01)


def test_gradients_of_many_passes_add_up_in_float32(load: LoadModel) -> None:
    """In bfloat16 the 257th of equal gradients would change nothing."""
    adapter = rounded(load, lora=LORA)
    assert distance(gradient(adapter, times=30), 30 * gradient(adapter)) < 1e-5


def test_float32_has_no_masters(load: LoadModel) -> None:
    adapter = load()
    before = weights(adapter)
    adapter.round_weights()
    named = dict(adapter.model.named_parameters())
    assert all(each is named[name] for name, each in adapter.trainable_parameters())
    assert all(torch.equal(each, before[name]) for name, each in named.items())


def test_masters_are_the_weights_of_a_folder_bit_for_bit(load: LoadModel, model_folders: dict[str, Path]) -> None:
    """Such as a checkpoint of a run under autocast: it is float32."""
    whole_weights = weights(load())
    assert any(not torch.equal(each, each.bfloat16().float()) for each in whole_weights.values())
    adapter = rounded(load, freeze=["vision"])
    assert all(torch.equal(each, whole_weights[name]) for name, each in adapter.trainable_parameters())


def test_a_saved_folder_is_float32_and_opens_in_transformers(load: LoadModel, tmp_path: Path) -> None:
    adapter = rounded(load, freeze=["vision"])
    with torch.no_grad():
        for _, master in adapter.trainable_parameters():
            master += 1e-5  # which rounding would lose
    adapter.follow_masters()
    before = weights(adapter)
    adapter.save(tmp_path)
    assert all(torch.equal(each, before[name]) for name, each in adapter.model.named_parameters())
    check_model_folder(tmp_path)
    opened = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert opened.dtype == torch.float32 and opened.config.dtype == torch.float32
    masters, stored = dict(adapter.trainable_parameters()), dict(opened.named_parameters())
    assert stored.keys() == before.keys()
    for name, each in stored.items():
        assert torch.equal(each, masters[name] if name in masters else before[name].float()), name
    again = rounded(load, path=str(tmp_path), freeze=["vision"])
    assert all(torch.equal(each, before[name]) for name, each in again.model.named_parameters())
    assert all(torch.equal(each, masters[name]) for name, each in again.trainable_parameters())


def test_a_saved_adapter_is_float32(load: LoadModel, tmp_path: Path) -> None:
    adapter = rounded(load, lora=LORA)
    with torch.no_grad():
        for _, master in adapter.trainable_parameters():
            master += 1e-5
    adapter.follow_masters()
    adapter.save(tmp_path)
    check_model_folder(tmp_path)
    again = load(path=str(tmp_path), lora=LORA)
    masters = dict(adapter.trainable_parameters())
    assert all(torch.equal(each, masters[name]) for name, each in again.trainable_parameters())


@pytest.mark.parametrize("family", CASES)
@pytest.mark.parametrize("adapts", [True, False], ids=["lora", "freeze"])
def test_layers_that_are_widened_one_at_a_time_compute_the_same(tmp_path: Path, family: str, adapts: bool) -> None:
    """In packed rows, in plain ones, and in two steps of a rollout; afterwards the weights lie where they lay."""
    skip_unless_installed(CASES[family])
    folder = write_tiny_model(tmp_path / family, family, seed=1)
    trained = {"lora": lora_of(CASES[family])} if adapts else {"freeze": ["text"]}
    adapter = load_case(CASES[family], folder, dtype="bfloat16", **trained)
    adapter.round_weights()
    group = make_training_group(adapter, make_sample([(84, 84)]), [4, 7, 2])
    prompts = [group.prompt.encoded, make_prompt(adapter, make_sample([])).encoded]

    def computed() -> list[Tensor]:
        batch = build_micro_batch(whole(group), adapter)
        with torch.no_grad():
            packed = packed_log_probs(adapter, batch, 1.0)
            plain = plain_log_probs(adapter, group.prompt.encoded, group.completions[1], 1.0)
            return [packed, plain, HfEngine(adapter, 10**6).two_steps(prompts, torch.tensor([7, 7]))]

    with adapter.in_float32():
        expected = computed()
    before = {name: (each.data_ptr(), each.dtype) for name, each in adapter.model.named_parameters()}
    with adapter.running_in_float32():
        found = computed()
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    lent = {id(each) for layer in adapter.lent_layers() for each in layer.parameters(recurse=False)}
    assert lent
    for name, each in adapter.model.named_parameters():
        assert each.dtype == before[name][1]
        assert id(each) not in lent or each.data_ptr() == before[name][0], name


def test_one_frozen_layer_at_a_time_is_widened(load: LoadModel) -> None:
    adapter = rounded(load, lora=LORA)
    layers = adapter.lent_layers()
    assert sum(each.weight.numel() for each in layers) > 0.4 * sum(p.numel() for p in adapter.model.parameters())
    wide = list[int]()
    for layer in layers:
        layer.register_forward_hook(lambda *_: wide.append(sum(each.weight.dtype == torch.float32 for each in layers)))
    group = make_training_group(adapter, make_sample([(84, 84)]), [4, 7, 2])
    with adapter.running_in_float32(), torch.no_grad():
        assert {each.weight.dtype for each in layers} == {torch.bfloat16}
        packed_log_probs(adapter, build_micro_batch(whole(group), adapter), 1.0)
    assert len(wide) == len(layers) and set(wide) == {1}


def test_a_layer_that_fails_is_rounded_again(load: LoadModel) -> None:
    adapter = rounded(load, lora=LORA)
    layer = adapter.lent_layers()[0]
    with adapter.running_in_float32(), pytest.raises(RuntimeError):
        layer(torch.zeros(1, 3))
    assert layer.weight.dtype == torch.bfloat16
