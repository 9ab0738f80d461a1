"""Attention of a vision tower in one call for all of its windows and images.

transformers loops over them, about a thousand calls for an image of Qwen2.5-VL. To an attention code whose name
contains "flash" it hands all patches at once, with the borders between what may attend to each other. Here that is
torch's own kernel for sequences of different lengths; it computes in half precision on CUDA alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, PreTrainedModel

from gpg_vl.config import ModelConfig
from gpg_vl.models.device import choose_device

VARLEN_ATTENTION = "flash_varlen_of_torch"
"""Name under which transformers knows ``attend_within_borders``."""


def choose_tower_attention(model: PreTrainedModel, config: ModelConfig) -> None:
    """Sets one call a layer for a tower in bfloat16 on a GPU, or on shapes; any other attends as transformers lets it.

    transformers checks a name that it is given when it loads a model, and would look for the package of flash
    attention: so this comes afterwards.
    """
    is_fast = choose_device(config).type == "cuda" or model.device.type == "meta"
    if is_fast and config.dtype == "bfloat16" and config.attention_of("vision") == "auto":
        model.config.vision_config._attn_implementation = VARLEN_ATTENTION


@contextmanager
def own_tower_attention(model: PreTrainedModel) -> Iterator[None]:
    """Within, the tower attends as transformers lets it with SDPA, a call for each window or image."""
    parts = [getattr(model.config, name) for name in model.config.sub_configs]
    changed = [part for part in parts if part._attn_implementation == VARLEN_ATTENTION]
    try:
        for part in changed:
            part._attn_implementation = "sdpa"
        yield
    finally:
        for part in changed:
            part._attn_implementation = VARLEN_ATTENTION


def attend_within_borders(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    **more: Any,
) -> tuple[Tensor, None]:
    """Patches attend to those between the same two borders.

    Args:
        query: [1, heads, K, d] of K patches, as ``key`` and ``value``
        cu_seq_lens_q: [parts + 1], from 0 to K
        max_length_q: patches of the largest part

    Returns:
        [1, K, heads, d]
    """
    if query.is_meta:
        return F.scaled_dot_product_attention(query, key, value, scale=scaling).transpose(1, 2), None
    if not _has_kernel(query):
        return _attend_part_by_part(query, key, value, cu_seq_lens_q, scaling), None
    q, k, v = (states[0].transpose(0, 1).contiguous() for states in (query, key, value))  # [K, heads, d]
    found = varlen_attn(q, k, v, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q, scale=scaling)
    assert isinstance(found, Tensor)
    return found[None], None


def _has_kernel(query: Tensor) -> bool:
    return query.device.type == "cuda" and query.dtype in (torch.bfloat16, torch.float16)


def _attend_part_by_part(query: Tensor, key: Tensor, value: Tensor, borders: Tensor, scaling: float) -> Tensor:
    """In float32, as in a self-check, and on a CPU."""
    lengths = borders.diff().tolist()
    parts = zip(*(states.split(lengths, dim=2) for states in (query, key, value)), strict=True)
    found = [F.scaled_dot_product_attention(q, k, v, scale=scaling) for q, k, v in parts]
    return torch.cat(found, dim=2).transpose(1, 2)


AttentionInterface.register(VARLEN_ATTENTION, attend_within_borders)
