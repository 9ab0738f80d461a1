"""Attention of packed rows: a token sees earlier tokens of the prompt and of its own completion.

One rule, computed in three ways: a dense mask, blocks for FlexAttention, and ``grouped_attention``, which skips every
pair that the rule forbids. All take segment ids [R, S]: 0 prompt, 1.. the row's completions in order, -1 padding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

GROUPED_ATTENTION = "grouped_sdpa"
"""Name under which transformers knows ``grouped_attention``."""


def visible_keys(segment_ids: Tensor) -> Tensor:
    """Which keys each query sees, [R, S, S] bool."""
    length = segment_ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segment_ids.device).tril()
    keys, queries = segment_ids[:, None, :], segment_ids[:, :, None]
    return causal & ((keys == 0) | (keys == queries))


def visible_blocks(segment_ids: Tensor) -> BlockMask:
    """The same for FlexAttention, which skips blocks of 128 x 128 without a visible key."""

    def is_visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        segment = segment_ids[row, key]
        return (query >= key) & ((segment == 0) | (segment == segment_ids[row, query]))

    num_rows, length = segment_ids.shape
    return create_block_mask(is_visible, num_rows, None, length, length, device=segment_ids.device)


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """The prompt attends to itself; then the completions, as a batch, attend to the prompt and to themselves.

    Rows that are not packed have no mask or a real one; they use transformers' own attention.

    Args:
        query: [R, heads, S, d]
        key: [R, key heads, S, d], like ``value``
        attention_mask: [R, 1, 1, S] segment ids, passed where transformers passes a mask
        scaling: factor of the scores

    Returns:
        [R, S, heads, d], 0 at padding
    """
    if attention_mask is None or attention_mask.dtype != torch.long:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    rows = zip(query, key, value, attention_mask[:, 0, 0], strict=True)
    return torch.stack([_attend_row(q, k, v, segments, scaling) for q, k, v, segments in rows]).transpose(1, 2), None


def _attend_row(query: Tensor, key: Tensor, value: Tensor, segments: Tensor, scaling: float | None) -> Tensor:
    """[heads, S, d] of one row; all three inputs have that shape, ``segments`` is [S]."""
    padding, prompt, *completions = torch.bincount(segments + 1, minlength=2).tolist()
    lengths = [length for length in completions if length]

    def prompt_of(tensor: Tensor) -> Tensor:
        return tensor[None, :, :prompt]

    def completions_of(tensor: Tensor) -> Tensor:
        """[G, heads, longest, d], padded at the end, which no real query sees."""
        parts = tensor[:, prompt : prompt + sum(lengths)].transpose(0, 1).split(lengths)
        return pad_sequence(list(parts), batch_first=True).transpose(1, 2)

    outputs = [
        F.scaled_dot_product_attention(
            prompt_of(query), prompt_of(key), prompt_of(value), is_causal=True, scale=scaling
        )[0]
    ]
    if lengths:
        group, longest = len(lengths), max(lengths)
        keys, values = (
            torch.cat([prompt_of(tensor).expand(group, -1, -1, -1), completions_of(tensor)], dim=2)
            for tensor in (key, value)
        )
        sees = torch.ones(longest, prompt + longest, dtype=torch.bool, device=query.device).tril(prompt)
        attended = F.scaled_dot_product_attention(completions_of(query), keys, values, attn_mask=sees, scale=scaling)
        outputs += [each[:, :length] for each, length in zip(attended, lengths, strict=True)]
    return F.pad(torch.cat(outputs, dim=1), (0, 0, 0, padding))


AttentionInterface.register(GROUPED_ATTENTION, grouped_attention)
AttentionMaskInterface.register(GROUPED_ATTENTION, sdpa_mask)  # without one transformers would drop the segment ids
