"""Which attention implementation the text model uses in a forward, and the mask it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from gpg_vl.config import ModelConfig
from gpg_vl.models.packed.attention import FLEX_ATTENTION, GROUPED_ATTENTION, visible_blocks, visible_keys

FLEX_ROW_LENGTH = 2048
"""Row length in tokens from which ``model.attention: auto`` uses FlexAttention on CUDA: a dense mask is quadratic."""
FLEX_BLOCK = 128
"""Tokens of a block of FlexAttention's mask."""


_WITHOUT_DENSE = ("cpu", "cuda", "meta")
"""Devices on which ``auto`` has a code that skips pairs, or a dense mask for rows that are short."""


class PackedAttention:
    """Switches the text model between attention for packed and for ordinary rows, before each forward."""

    def __init__(self, text_config: Any, config: ModelConfig):
        """
        Args:
            text_config: config of the text model; its current attention implementation is the one for ordinary rows
        """
        self._text_config = text_config
        self._config = config
        self._dense = text_config._attn_implementation

    def mask(
        self, visible: Tensor | None, segment_ids: Tensor | None, dtype: torch.dtype, num_earlier: int = 0
    ) -> Tensor | BlockMask | None:
        """The mask argument; also sets the text model to the implementation that takes it.

        Args:
            visible: [R, S, keys] bool, which keys each query may see; None: all earlier ones
            segment_ids: [R, S] of packed rows, in place of ``visible``
            dtype: dtype of the scores
            num_earlier: tokens of packed rows that are in a cache, and have keys alone
        """
        code = self._dense if segment_ids is None else self._packed(segment_ids)
        self._text_config._attn_implementation = FLEX_ATTENTION if code == "flex_attention" else code
        if segment_ids is not None and code == GROUPED_ATTENTION:
            return segment_ids[:, None, None]
        if segment_ids is not None and code == "flex_attention":
            return visible_blocks(segment_ids, num_earlier)
        if segment_ids is not None:
            visible = visible_keys(segment_ids)[:, num_earlier:]
        return None if visible is None else self._dense_mask(visible, dtype)

    def skips_groups(self, device: torch.device) -> bool:
        """Whether groups in one row cost no more than in rows of their own: a dense mask computes their pairs."""
        skipping = (GROUPED_ATTENTION, "flex_attention", *(["auto"] if device.type in _WITHOUT_DENSE else []))
        return self._config.attention_of("text") in skipping

    def row_block(self, num_tokens: int, device: torch.device) -> int:
        """Packed rows of that many tokens are padded to a multiple of it: a whole block where there are blocks.

        On the meta device the answer is that of CUDA.
        """
        on_gpu = device.type in ("cuda", "meta")
        return FLEX_BLOCK if on_gpu and self._code("cuda", num_tokens) == "flex_attention" else 1

    def dense(self, visible: Tensor | Mapping[str, Tensor], dtype: torch.dtype) -> Tensor | dict[str, Tensor]:
        """The mask argument for keys that a family says itself: one mask, or one for each type of layer."""
        self._text_config._attn_implementation = self._dense
        if isinstance(visible, Tensor):
            return self._dense_mask(visible, dtype)
        return {layer_type: self._dense_mask(each, dtype) for layer_type, each in visible.items()}

    def _packed(self, segment_ids: Tensor) -> str:
        """The attention implementation for packed rows [R, S]."""
        return self._code(segment_ids.device.type, segment_ids.shape[1])

    def _code(self, kind: str, num_tokens: int) -> str:
        """The same for rows of that many tokens on a kind of device."""
        attention = self._config.attention_of("text")
        if attention != "auto":
            return attention
        if kind == "cpu":
            return GROUPED_ATTENTION
        return "flex_attention" if kind == "cuda" and num_tokens >= FLEX_ROW_LENGTH else "sdpa"

    def _dense_mask(self, visible: Tensor, dtype: torch.dtype) -> Tensor:
        """[R, 1, S, keys]: bool for sdpa, additive for eager, which would add a bool mask as 0 and 1."""
        if self._dense == "sdpa":
            return visible[:, None]
        added = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
        return added.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]
