"""Where a model runs is said first, and a large one does not start on a CPU by accident."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gpg_vl.config import ModelConfig
from gpg_vl.models import device, load_adapter
from gpg_vl.models.device import choose_device, describe_device, refuse_without_bfloat16
from tests.support.builders import SMALL_IMAGES
from tests.support.messages import naming


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(name="NVIDIA H100 80GB HBM3", total_memory=79 * 2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)


def test_without_a_gpu() -> None:
    config = ModelConfig(dtype="float32")
    assert choose_device(config).type == "cpu"
    assert describe_device(torch.device("cpu"), config) == "no GPU: on the CPU, float32"


def test_with_a_gpu(with_gpu: None) -> None:
    assert choose_device(ModelConfig()).type == "cuda"
    said = describe_device(torch.device("cuda:0"), ModelConfig())
    assert said == "cuda:0 NVIDIA H100 80GB HBM3, 79 GiB, bfloat16"
    asked = ModelConfig(device="cpu")
    assert choose_device(asked).type == "cpu"
    assert describe_device(torch.device("cpu"), asked) == "model.device is cpu: on the CPU, bfloat16"


@pytest.mark.parametrize("supported", [True, False])
def test_a_gpu_without_bfloat16_is_said_before_the_weights_are_loaded(
    model_folders: dict[str, Path], with_gpu: None, monkeypatch: pytest.MonkeyPatch, supported: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported or including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla V100")
    for asked in ({"dtype": "float32"}, {"dtype": "bfloat16", "device": "cpu"}):
        refuse_without_bfloat16(config_of(model_folders["qwen2_vl"], **asked))
    config = config_of(model_folders["qwen2_vl"], dtype="bfloat16")
    if supported:
        refuse_without_bfloat16(config)
        return
    with pytest.raises(ValueError, match=naming("model.dtype", "Tesla V100", "bfloat16", "float32")) as caught:
        load_adapter(config)
    assert "\n" not in str(caught.value)


def config_of(folder: Path, **changes: Any) -> ModelConfig:
    return ModelConfig(path=str(folder), **{**SMALL_IMAGES, **changes})


def test_a_large_model_on_a_cpu_has_to_be_asked_for(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny model has 1,377,280 weights."""
    folder = model_folders["qwen2_vl"]
    monkeypatch.setattr(device, "MOST_WEIGHTS_ON_CPU", 1_377_279)
    with pytest.raises(ValueError, match=naming("model.path", folder, "0.0 B", "model.device", "cpu")):
        load_adapter(config_of(folder))
    assert load_adapter(config_of(folder, device="cpu")).device.type == "cpu"
    assert load_adapter(config_of(folder), with_weights=False).count_tokens("How many?", ()) > 0
    monkeypatch.setattr(device, "MOST_WEIGHTS_ON_CPU", 1_377_280)
    load_adapter(config_of(folder))


def test_with_a_gpu_any_size_is_loaded(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, with_gpu: None
) -> None:
    monkeypatch.setattr(device, "MOST_WEIGHTS_ON_CPU", 1)
    adapter = load_adapter(config_of(model_folders["qwen2_vl"], attention="sdpa"))
    assert adapter.num_parameters()[0] > device.MOST_WEIGHTS_ON_CPU
