"""The policy's weights as a server takes them: one safetensors file, in the names and the type of a model's folder."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from gpg_vl.files import naming
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.lora import merged_weights

WEIGHTS_FILE = "model.safetensors"
_AS_WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

Fingerprint = tuple[int, ...]


@torch.no_grad()
def fingerprint(adapter: Adapter) -> Fingerprint:
    """A sum over the bits of every tensor: other weights have another one, whoever has changed them."""
    return tuple(_sum_bits(tensor) for tensor in adapter.model.state_dict().values())


def _sum_bits(tensor: Tensor) -> int:
    return int(tensor.contiguous().view(_AS_WHOLE[tensor.element_size()]).sum(dtype=torch.int64))


@torch.no_grad()
def write_weights(adapter: Adapter, folder: Path) -> None:
    """Writes all weights, those of a LoRA adapter added in, in the type that the model computes in."""
    dtype = torch.bfloat16 if adapter.config.dtype == "bfloat16" else torch.float32
    named = revert_weight_conversion(adapter.model, _untied(merged_weights(adapter.model)))
    tensors = {name: _as_stored(tensor, dtype) for name, tensor in named.items()}
    path = folder / WEIGHTS_FILE
    with naming(path):
        save_file(tensors, path, metadata={"format": "pt"})


def _untied(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor once, by the first of its names: an output layer may be the embedding itself."""
    first: dict[tuple[int, torch.Size], str] = {}
    for name, tensor in weights.items():
        first.setdefault((tensor.data_ptr(), tensor.shape), name)
    return {name: weights[name] for name in first.values()}


def _as_stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to(dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
