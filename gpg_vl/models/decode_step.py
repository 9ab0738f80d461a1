"""The next token of every row of a rollout through the text model.

Qwen2's layers are run here one by one: the same modules on the same numbers as in transformers' forward, without the
views, masks and copies that a row of a single token does not need. They are nearly half of its operations, and a step
takes as long as its operations take to be started. Every other model runs its own forward.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2VLForConditionalGeneration
from transformers.cache_utils import Cache

from gpg_vl.models.adapter import Adapter

_QWEN2 = (Qwen2VLForConditionalGeneration, Qwen2_5_VLForConditionalGeneration)


def run_step(adapter: Adapter, tokens: Tensor, positions: Tensor, visible: Tensor | None, cache: Cache) -> Tensor:
    """Hidden states [R, H] after the last norm, as ``Adapter.run_body`` gives them.

    Args:
        tokens: [R] of text, one for each row
        positions: [A, R], for each row the same on every axis
        visible: [R, keys] bool, which keys are real, the token's own included; None if all are
        cache: after the prefill; extended in place
    """
    if isinstance(adapter.model, _QWEN2):
        text = adapter.model.model.language_model
        if text.config._attn_implementation == "sdpa":
            return _run_layers(text, text.embed_tokens(tokens), positions, visible, cache)
    return adapter.run_body(
        input_ids=tokens[:, None],
        token_types=torch.zeros_like(tokens)[:, None],
        position_ids=positions[:, :, None],
        visible=None if visible is None else visible[:, None, :],
        cache=cache,
    )[:, -1]


def _run_layers(text: Any, hidden: Tensor, positions: Tensor, visible: Tensor | None, cache: Cache) -> Tensor:
    cos, sin = _rotation(text, hidden, positions)
    mask = None if visible is None else visible[:, None, None]
    for layer in text.layers:
        hidden = hidden + _attend(layer.self_attn, layer.input_layernorm(hidden), cos, sin, mask, cache)
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return text.norm(hidden)  # type: ignore[no-any-return]


def _rotation(text: Any, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines [R, 1, 1, d] of the rotary embedding, for ``_rotate``."""
    found = text.rotary_emb(hidden[:, None], positions[:, :, None])
    # transformers 5.17 leaves the axes apart; those of a token of text are equal
    cos, sin = ((each[0] if each.ndim == 4 else each)[:, None] for each in found)
    first, second = sin.chunk(2, dim=-1)
    return cos, torch.cat((-first, second), dim=-1)


def _rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Queries or keys [R, heads, 1, d]: the halves change places, and the sign that one of them takes is the sine's."""
    return states * cos + states.roll(states.shape[-1] // 2, dims=-1) * sin


def _attend(attention: Any, seen: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: Cache) -> Tensor:
    """
    Args:
        seen: [R, H]
        mask: [R, 1, 1, keys] bool
    """
    shape = (len(seen), -1, 1, attention.head_dim)
    query = _rotate(attention.q_proj(seen).view(shape), cos, sin)
    key = _rotate(attention.k_proj(seen).view(shape), cos, sin)
    keys, values = cache.update(key, attention.v_proj(seen).view(shape), attention.layer_idx)
    groups = attention.num_key_value_groups
    if mask is not None:  # heads that share their keys as queries of one head, since torch's kernels share none then
        query = query.view(len(seen), -1, groups, attention.head_dim)
    shares = mask is None and groups > 1
    attended = F.scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, scale=attention.scaling, enable_gqa=shares
    )
    return attention.o_proj(attended.reshape(len(seen), -1))  # type: ignore[no-any-return]
