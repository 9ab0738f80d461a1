"""In which type each weight of a float32 model is computed with where autocast runs it."""

from __future__ import annotations

import torch
from torch import nn

from gpg_vl.models.adapter import Adapter


def cast_weights(adapter: Adapter) -> dict[str, nn.Parameter]:
    """Weights that autocast casts in each call, by name: those of linear layers.

    Cast once, they give the same results bit for bit, in half the memory. The head is computed in float32, as are
    embeddings and norms.
    """
    layers = [module for module in adapter.model.modules() if isinstance(module, nn.Linear)]
    cast = {id(weight) for layer in layers for weight in layer.parameters(recurse=False)} - {id(adapter.head_weight)}
    return {name: weight for name, weight in adapter.model.named_parameters() if id(weight) in cast}


def types_under_autocast(adapter: Adapter) -> dict[str, torch.dtype]:
    """Types of these weights, by name; nothing for a model that runs in float32."""
    dtype = adapter.autocast_dtype
    return {} if dtype is None else dict.fromkeys(cast_weights(adapter), dtype)


def bytes_computed_in(adapter: Adapter, *, is_rounded: bool) -> int:
    """Of all weights, each in the type that it is computed in.

    Args:
        is_rounded: whether ``model.dtype: bfloat16`` means rounded weights, and not autocast
    """
    num_weights, _ = adapter.num_parameters()
    if adapter.autocast_dtype is None:
        return 4 * num_weights
    cast = sum(each.numel() for each in cast_weights(adapter).values())
    return 2 * num_weights if is_rounded else 4 * num_weights - 2 * cast
