"""The next token of every row of a rollout through the text model.

The layers of Qwen2 and Qwen3 are run here one by one: the same modules on the same numbers as in transformers' forward,
without the views, masks and copies that a row of a single token does not need: 0.6 of its operations are left, and a
step takes as long as its operations take to be started. Queries, keys and values are turned and cached together. Every
other model runs its own forward, and so do these with another rotary embedding than the default.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
)
from transformers.cache_utils import Cache

from gpg_vl.models.adapter import Adapter

_DENSE_QWEN = (Qwen2VLForConditionalGeneration, Qwen2_5_VLForConditionalGeneration, Qwen3VLForConditionalGeneration)


class Layers(Protocol):
    """A cache: each layer has ``keys`` [R, heads, keys, d] and ``append``, as ``kv_cache.GrowingLayer`` has them."""

    layers: list[Any]


def run_step(adapter: Adapter, tokens: Tensor, positions: Tensor, visible: Tensor | None, cache: Cache) -> Tensor:
    """Hidden states [R, H] after the last norm, as ``Adapter.run_body`` gives them.

    Args:
        tokens: [R] of text, one for each row
        positions: [A, R], for each row the same on every axis
        visible: [R, keys] bool, which keys are real, the token's own included; None if all are
        cache: after the prefill; extended in place
    """
    text = own_text(adapter)
    if text is not None:
        mask = None if visible is None else added_mask(visible, _compute_dtype(tokens.device, text.dtype))
        return run_layers(text, tokens, positions[0], mask, cache)
    return adapter.run_body(
        input_ids=tokens[:, None],
        token_types=torch.zeros_like(tokens)[:, None],
        position_ids=positions[:, :, None],
        visible=None if visible is None else visible[:, None, :],
        cache=cache,
    )[:, -1]


def own_text(adapter: Adapter) -> Any | None:
    """The text model whose layers are run here one by one; None where its own forward runs."""
    if not isinstance(adapter.model, _DENSE_QWEN):
        return None
    text = adapter.model.model.language_model
    is_usual = text.config._attn_implementation == "sdpa" and text.rotary_emb.rope_type == "default"
    return text if is_usual else None


def _compute_dtype(device: torch.device, weights: torch.dtype) -> torch.dtype:
    """That of queries in attention; the self-check runs float32 weights without the autocast that a rollout has."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else weights


def added_mask(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """[R, 1, 1, keys], to be added to scores: of a bool mask, every layer would make this again."""
    return torch.zeros_like(visible, dtype=dtype).masked_fill_(~visible, -torch.inf)[:, None, None]


def run_layers(text: Any, tokens: Tensor, positions: Tensor, mask: Tensor | None, cache: Layers) -> Tensor:
    """Hidden states [R, H] after the last norm.

    Args:
        tokens: [R]
        positions: [R]
        mask: [R, 1, 1, keys], added to the scores; None if all keys are real
    """
    hidden = text.embed_tokens(tokens)
    cos, sin = _rotation(text, positions, hidden.dtype)
    for layer in text.layers:
        hidden = hidden + _attend(layer.self_attn, layer.input_layernorm(hidden), cos, sin, mask, cache)
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return text.norm(hidden)  # type: ignore[no-any-return]


def _rotation(text: Any, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines [R, heads, 1, d] of the rotary embedding, for ``_rotate``.

    The heads are those of queries, keys and values; values are turned by an angle of 0, which changes nothing.

    Args:
        positions: [R]
    """
    heads, shared = text.config.num_attention_heads, text.config.num_key_value_heads
    frequencies = text.rotary_emb.inv_freq.float()
    signed = torch.cat((-frequencies, frequencies)).expand(heads + shared, 1, -1)
    angles = positions.float()[:, None, None, None] * F.pad(signed, (0, 0, 0, 0, 0, shared))
    return angles.cos().to(dtype), angles.sin().to(dtype)


def _rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """States [R, heads, 1, d]: the halves change places, and the sign that one of them takes is the sine's."""
    return states * cos + states.roll(states.shape[-1] // 2, dims=-1) * sin


def _project(attention: Any, seen: Tensor) -> Tensor:
    """[R, heads, 1, d]: queries, keys and values, one after the other; Qwen3 has norms on the first two."""
    parts = [attention.q_proj(seen), attention.k_proj(seen), attention.v_proj(seen)]
    if not hasattr(attention, "q_norm"):
        return torch.cat(parts, dim=-1).view(len(seen), -1, 1, attention.head_dim)
    queries, keys, values = (part.view(len(seen), -1, 1, attention.head_dim) for part in parts)
    return torch.cat((attention.q_norm(queries), attention.k_norm(keys), values), dim=1)


def _attend(attention: Any, seen: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: Layers) -> Tensor:
    """
    Args:
        seen: [R, H]
        mask: [R, 1, 1, keys], added to the scores
    """
    layer = cache.layers[attention.layer_idx]
    states = _rotate(_project(attention, seen), cos, sin)
    shared = layer.keys.shape[1]
    query, added = states.split((states.shape[1] - 2 * shared, 2 * shared), dim=1)
    keys, values = layer.append(added)
    groups = attention.num_key_value_groups
    if mask is not None:  # heads that share their keys as queries of one head, since torch's kernels share none then
        query = query.reshape(len(seen), -1, groups, attention.head_dim)
    shares = mask is None and groups > 1
    attended = F.scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, scale=attention.scaling, enable_gqa=shares
    )
    return attention.o_proj(attended.reshape(len(seen), -1))  # type: ignore[no-any-return]
