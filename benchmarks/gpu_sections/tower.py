"""Attention of the vision tower in one call for all windows and images.

transformers loops over windows with SDPA, about a thousand calls for an image of Qwen2.5-VL; it hands the whole
sequence with its borders to any attention code whose name contains "flash". Here that is torch's own varlen kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from benchmarks.gpu_sections.trial import NotHere

VARLEN = "flash_varlen_of_torch"


def varlen_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """All three inputs [1, heads, K, d]; returns [1, K, heads, d]. Patches attend within ``cu_seq_lens_q``."""
    assert cu_seq_lens_q is not None and max_length_q is not None
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    attend = _kernel if query.device.type == "cuda" else _stand_in
    return attend(q, k, v, cu_seq_lens_q, int(max_length_q), scaling)[None], None


def _kernel(query: Tensor, key: Tensor, value: Tensor, borders: Tensor, longest: int, scaling: float | None) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    parts = (query.contiguous(), key.contiguous(), value.contiguous())
    return varlen_attn(*parts, borders, borders, longest, longest, scale=scaling)  # type: ignore[return-value]


def _stand_in(
    query: Tensor, key: Tensor, value: Tensor, borders: Tensor, longest: int, scaling: float | None
) -> Tensor:
    """The same on a CPU, which has no such kernel: a call for each part."""
    lengths = borders.diff().tolist()
    parts = zip(*(tensor.transpose(0, 1).split(lengths, dim=1) for tensor in (query, key, value)), strict=True)
    attended = [F.scaled_dot_product_attention(q[None], k[None], v[None], scale=scaling)[0] for q, k, v in parts]
    return torch.cat(attended, dim=1).transpose(0, 1)


AttentionInterface.register(VARLEN, varlen_attention)


@contextmanager
def tower_attention(model: Any, name: str) -> Iterator[None]:
    """
    Raises:
        NotHere: this torch has no varlen kernel
    """
    if name == VARLEN and torch.cuda.is_available():
        try:
            from torch.nn.attention.varlen import varlen_attn  # noqa: F401
        except ImportError as error:
            raise NotHere(f"torch {torch.__version__} has no varlen attention") from error
    config = model.config.vision_config
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before
