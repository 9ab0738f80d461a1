"""Attention of packed rows: a token sees earlier tokens of its group's prompt and of its own completion.

One rule, computed in three ways: a dense mask, blocks for FlexAttention, and ``grouped_attention``, which skips every
pair that the rule forbids. All take segment ids [R, S] (``segments.py``).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from gpg_vl.models.packed.flex_attention import compiled_flex_attention
from gpg_vl.models.packed.grouped_attention import grouped_attention
from gpg_vl.models.packed.segments import prompt_of

GROUPED_ATTENTION = "grouped_sdpa"
"""Name under which transformers knows ``grouped_attention``."""
FLEX_ATTENTION = "compiled_flex_attention"
"""The same of ``compiled_flex_attention``; by ``flex_attention`` it would compile its own."""


def visible_keys(segment_ids: Tensor) -> Tensor:
    """Which keys each query sees, [R, S, S] bool."""
    length = segment_ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segment_ids.device).tril()
    keys, queries = segment_ids[:, None, :], segment_ids[:, :, None]
    return causal & ((keys == prompt_of(queries)) | (keys == queries))


def visible_blocks(segment_ids: Tensor, num_earlier: int = 0) -> BlockMask:
    """The same for FlexAttention, which skips blocks of 128 x 128 without a visible key.

    Args:
        num_earlier: first tokens of each row that are no queries
    """

    prompts = prompt_of(segment_ids)
    earlier = torch.full((), num_earlier, device=segment_ids.device)  # a number would be compiled in

    def is_visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        segment, place = segment_ids[row, key], query + earlier
        return (place >= key) & ((segment == prompts[row, place]) | (segment == segment_ids[row, place]))

    num_rows, length = segment_ids.shape
    return create_block_mask(is_visible, num_rows, None, length - num_earlier, length, device=segment_ids.device)


AttentionInterface.register(GROUPED_ATTENTION, grouped_attention)
AttentionInterface.register(FLEX_ATTENTION, compiled_flex_attention)
for name in (GROUPED_ATTENTION, FLEX_ATTENTION):
    AttentionMaskInterface.register(name, sdpa_mask)  # without one transformers would drop the mask that it is given
