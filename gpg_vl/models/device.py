"""Where a model runs: on a GPU, or on the CPU where it is small or where that is asked for."""

from __future__ import annotations

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from gpg_vl.config import ModelConfig

MOST_WEIGHTS_ON_CPU = 500_000_000


def choose_device(config: ModelConfig) -> torch.device:
    """The device of a process that runs alone."""
    return torch.device("cuda" if torch.cuda.is_available() and config.device == "auto" else "cpu")


def describe_device(device: torch.device, config: ModelConfig) -> str:
    """``cuda:0 NVIDIA H100 80GB HBM3, 79 GiB, bfloat16``, or ``no GPU: on the CPU, float32``."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{device} {properties.name}, {properties.total_memory / 2**30:.0f} GiB, {config.dtype}"
    reason = "model.device is cpu" if torch.cuda.is_available() else "no GPU"
    return f"{reason}: on the CPU, {config.dtype}"


def refuse_without_bfloat16(config: ModelConfig) -> None:
    """
    Raises:
        ValueError: the GPU is too old for ``model.dtype: bfloat16``; it would emulate it, slower than float32
    """
    if config.dtype != "bfloat16" or choose_device(config).type == "cpu":
        return
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name()
        raise ValueError(f"model.dtype: {name} cannot compute in bfloat16; set model.dtype to float32")


def refuse_slow(config: ModelConfig, model_class: type[PreTrainedModel], model_config: PreTrainedConfig) -> None:
    """
    Raises:
        ValueError: without a GPU, a model that is large for a CPU, unless ``model.device`` asks for it
    """
    if config.device == "cpu" or torch.cuda.is_available():
        return
    with torch.device("meta"):
        num_weights = sum(weight.numel() for weight in model_class(model_config).parameters())
    if num_weights > MOST_WEIGHTS_ON_CPU:
        raise ValueError(
            f"model.path: no GPU, and {config.path} has {num_weights / 1e9:.1f} B weights, which is slow on a CPU; set "
            "model.device to cpu to run it all the same"
        )
