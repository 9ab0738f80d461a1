"""A base in 4 bits: the same numbers in packed rows, plain rows and rollouts, and an adapter that trains on them."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from gpg_vl.config import LoraConfig, ModelConfig
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.plain_rows import plain_log_probs
from gpg_vl.models.tiny import write_tiny_model
from gpg_vl.models.weights import four_bit
from gpg_vl.models.weights.four_bit import (
    BYTES,
    FourBitLinear,
    four_bit_weights,
    refuse_sharing,
    refuse_without_library,
)
from gpg_vl.models.weights.lora import merged_weights, weight_names
from gpg_vl.processes.sharding import Sharding
from gpg_vl.update.flops import count_weights
from gpg_vl.update.handing_out import digest_of
from gpg_vl.update.packing import build_micro_batch
from gpg_vl.update.policy import PolicyForward, packed_log_probs
from gpg_vl.update.self_check import check_packing, check_prefill
from tests.support.builders import make_sample, make_training_group, moved, whole
from tests.support.families import CASES, load_case, skip_unless_installed
from tests.support.family_lora import lora_of
from tests.support.messages import naming

functional = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is not installed")
LORA = LoraConfig(r=4, parts=["text", "vision"], quantize="nf4")
LoadModel = Callable[..., Adapter]


@pytest.fixture(params=CASES)
def family(request: pytest.FixtureRequest) -> str:
    skip_unless_installed(CASES[request.param])
    return str(request.param)


@pytest.fixture
def load_family(tmp_path: Path) -> LoadModel:
    """Loads a fresh tiny model: ``load_family("gemma3", lora=LORA)``."""

    def load(family: str, **config: object) -> Adapter:
        folder = tmp_path / family
        return load_case(
            CASES[family], folder if folder.exists() else write_tiny_model(folder, family, seed=1), **config
        )

    return load


def quantized(family: str) -> LoraConfig:
    return replace(lora_of(CASES[family]), quantize="nf4")


def by_hand(weight: Tensor) -> Tensor:
    """NF4 as the paper has it, with 8-bit scales: what a weight becomes."""
    codes, state = functional.quantize_4bit(weight, blocksize=64, compress_statistics=True, quant_type="nf4")
    state.dtype = torch.float32
    found: Tensor = functional.dequantize_4bit(codes, state)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_computes_with_the_rounded_weight(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(96, 80)
    layer = FourBitLinear(linear, dtype, torch.device("cpu"))
    expected = by_hand(linear.weight.detach().to(dtype))
    assert torch.equal(layer.dequantized(), expected)
    assert 0.02 < (expected - linear.weight).abs().mean() / linear.weight.abs().mean() < 0.2
    seen = torch.randn(3, 96, requires_grad=True)
    found = layer(seen)
    assert torch.allclose(found, nn.functional.linear(seen, expected, linear.bias), atol=1e-6)
    (gradient,) = torch.autograd.grad(found.square().sum(), seen)
    assert torch.allclose(gradient, 2 * found.detach() @ expected, atol=1e-4)
    with torch.no_grad():
        assert torch.allclose(layer(seen[:1]), found[:1], atol=1e-6), "a single row is another kernel"


def test_a_layer_takes_four_bits_of_a_weight() -> None:
    layer = FourBitLinear(nn.Linear(512, 1024, bias=False), torch.float32, torch.device("cpu"))
    tensors = [*layer.parameters(), *layer.buffers()]
    constant = (16 + 256 + 1) * 4
    taken = sum(each.numel() * each.element_size() for each in tensors) - constant
    assert taken == BYTES * 512 * 1024
    assert layer.num_weights == 512 * 1024


def test_a_layer_without_values_has_the_same_tensors() -> None:
    """Which it gets from the first rank."""
    for shape in ((96, 80), (6, 5), (7, 2000)):
        full = FourBitLinear(nn.Linear(*shape), torch.float32, torch.device("cpu"))
        with torch.device("meta"):
            empty = FourBitLinear(nn.Linear(*shape), torch.float32, torch.device("cpu"))
        for kind in ("named_parameters", "named_buffers"):
            one, other = (
                [(name, each.shape, each.dtype) for name, each in getattr(layer, kind)()] for layer in (full, empty)
            )
            assert one == other
        assert digest_of(full) == digest_of(empty)
        assert all(each.is_meta for each in (*empty.parameters(), *empty.buffers()))


def test_copies_share_a_layer() -> None:
    layer = FourBitLinear(nn.Linear(8, 8), torch.float32, torch.device("cpu"))
    assert copy.deepcopy(nn.Sequential(layer))[0] is layer


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_packed_rows_are_plain_rows(load_family: LoadModel, family: str, dtype: str) -> None:
    adapter = moved(load_family(family, dtype=dtype, lora=quantized(family)))
    adapter.round_weights()
    coded = dict(four_bit_weights(adapter.model))
    assert coded and not adapter.quantized_layers()
    rows = whole(make_training_group(adapter, make_sample([(84, 84)]), [4, 7, 2]))
    assert check_packing(adapter, rows, 1.0) < 1e-4
    assert check_prefill(adapter, rows, 1.0) < 1e-4
    assert {each.dtype for layer in coded.values() for each in layer.parameters()} <= {torch.uint8, adapter_type(dtype)}


def adapter_type(dtype: str) -> torch.dtype:
    return torch.bfloat16 if dtype == "bfloat16" else torch.float32


def test_gradients_are_those_of_a_model_with_these_weights(load_family: LoadModel, family: str) -> None:
    """An ordinary model whose weights are what 4 bits keep of them."""
    rounded = moved(load_family(family, lora=quantized(family)))
    plain = moved(load_family(family, lora=lora_of(CASES[family])))
    coded = {name: layer.dequantized() for name, layer in four_bit_weights(rounded.model)}
    for name, weight in plain.model.named_parameters():
        if name in coded:
            weight.data.copy_(coded[name])
    gradients = [gradients_of(each) for each in (rounded, plain)]
    assert gradients[0].keys() == gradients[1].keys() and gradients[0]
    for name, found in gradients[0].items():
        expected = gradients[1][name]
        assert float((found - expected).norm()) <= 1e-4 * float(expected.norm()) + 1e-9, name


def gradients_of(adapter: Adapter) -> dict[str, Tensor]:
    adapter.model.train()
    batch = build_micro_batch(whole(make_training_group(adapter, make_sample([(84, 84)]), [4, 7, 2])), adapter)
    (batch.coefficients * PolicyForward(adapter, 1.0)(batch)).sum().backward()
    return {name: each.grad for name, each in adapter.model.named_parameters() if each.grad is not None}


def test_only_the_base_is_in_four_bits(load_family: LoadModel, family: str) -> None:
    adapter, full = (load_family(family, lora=lora) for lora in (quantized(family), lora_of(CASES[family])))
    assert adapter.num_parameters() == full.num_parameters()
    assert adapter.num_by_part() == full.num_by_part()
    assert count_weights(adapter) == count_weights(full)
    assert not any(each.requires_grad for layer in dict(four_bit_weights(adapter.model)).values()
                   for each in layer.parameters())  # fmt: skip
    for name, each in adapter.model.named_parameters():
        assert each.dtype == torch.uint8 or each.shape == dict(full.model.named_parameters())[name].shape
        assert each.dtype != torch.uint8 or adapter.part_of(name) == "text"


@pytest.mark.parametrize("family", ["qwen3_5_moe", "gemma4", "qwen3_vl_moe", "glm4v_moe"], indirect=True)
def test_what_chooses_experts_stays(load_family: LoadModel, family: str) -> None:
    """Another choice is another model, and nothing is saved."""
    model = load_family(family, lora=quantized(family)).model
    coded = [name for name, _ in four_bit_weights(model)]
    assert coded
    assert not [name for name in coded if re.search(r"router\.|\.gate\.|shared_expert_gate\.", name)]


def test_without_the_adapter_it_is_the_rounded_base(load_family: LoadModel) -> None:
    """What objectives with a reference compare with."""
    fresh, trained = load_family("qwen2_vl", lora=LORA), moved(load_family("qwen2_vl", lora=LORA))
    batch = build_micro_batch(whole(make_training_group(fresh, make_sample([(84, 84)]), [4, 7])), fresh)
    with torch.no_grad():
        expected = packed_log_probs(fresh, batch, 1.0)
        assert not torch.equal(packed_log_probs(trained, batch, 1.0), expected)
        with trained.without_lora():
            assert torch.equal(packed_log_probs(trained, batch, 1.0), expected)


def test_recomputed_activations_give_the_same_gradient(load_family: LoadModel) -> None:
    one, other = (
        gradients_of(moved(load_family("qwen2_vl", lora=LORA, gradient_checkpointing=on))) for on in (False, True)
    )
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-7) for name in one)


def test_a_checkpoint_holds_the_adapter_alone(load_family: LoadModel, tmp_path: Path) -> None:
    """And goes on from there: the same base is rounded in the same way."""
    adapter = moved(load_family("qwen2_vl", lora=LORA))
    adapter.save(tmp_path / "now")
    adapter.take_snapshot().write(tmp_path / "later")
    saved = load_file(tmp_path / "now" / "adapter_model.safetensors")
    later = load_file(tmp_path / "later" / "adapter_model.safetensors")
    assert saved.keys() == later.keys() and all(torch.equal(saved[name], later[name]) for name in saved)
    assert all("lora_" in name for name in saved)
    again = load_case(CASES["qwen2_vl"], tmp_path / "now", lora=LORA)
    group = make_training_group(adapter, make_sample([(84, 84)]), [4, 7])
    with torch.no_grad():
        one, other = (packed_log_probs(each, build_micro_batch(whole(group), each), 1.0) for each in (adapter, again))
    assert torch.equal(one, other)


def test_merged_weights_are_those_of_the_policy(load_family: LoadModel) -> None:
    """An engine gets what the policy computes with, and not the base that 4 bits stand for."""
    adapter = moved(load_family("qwen2_vl", lora=LORA))
    merged = load_family("qwen2_vl")
    named = dict(merged.model.named_parameters())
    for name, weight in merged_weights(adapter.model, weight_names(adapter.model)):
        named[name].data.copy_(weight)
    group = make_training_group(adapter, make_sample([(84, 84)]), [4, 7])
    with torch.no_grad():
        one = plain_log_probs(adapter, group.prompt.encoded, group.completions[1], 1.0)
        other = plain_log_probs(merged, group.prompt.encoded, group.completions[1], 1.0)
    assert torch.allclose(one, other, atol=1e-4)


def test_layouts_that_share_weights_are_refused() -> None:
    config = ModelConfig(lora=LORA)
    refuse_sharing(config, Sharding("none"))
    refuse_sharing(ModelConfig(lora=LoraConfig()), Sharding("fsdp"))
    for name in ("fsdp", "hsdp", "fsdp_offload", "zero1", "zero2", "zero3", "zero3_offload"):
        with pytest.raises(ValueError, match=naming("model.lora.quantize", "SHARDING=none")):
            refuse_sharing(config, Sharding(name))  # type: ignore[arg-type]


def test_without_the_library_it_is_refused(monkeypatch: pytest.MonkeyPatch, load_family: LoadModel) -> None:
    monkeypatch.setattr(four_bit.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=naming("model.lora.quantize", "gpg-vl[bnb]")):
        refuse_without_library(ModelConfig(lora=LORA))
    with pytest.raises(ValueError, match=naming("model.lora.quantize", "gpg-vl[bnb]")):
        load_family("qwen2_vl", lora=LORA)
