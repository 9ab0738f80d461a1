"""FlexAttention, compiled by the kit: once for all lengths of rows, and never run uncompiled.

torch compiles it anew for what its graph depends on: with or without a gradient, the type, queries and keys of one
length or of two. From a limit of graphs on, it would run the plain code, which holds all scores, and say so in a
warning. transformers compiles it for fixed lengths first, and again when a model goes from training to evaluation.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.exc import FailOnRecompileLimitHit
from torch.nn.attention import flex_attention as flex
from torch.nn.attention.flex_attention import BlockMask
from transformers.integrations.sdpa_attention import sdpa_attention_forward

_MOST_GRAPHS = 64
"""Of one process; torch's own limit of 8 is what a run and its self-check take."""


@cache
def _compiled() -> Any:
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_GRAPHS)
    return torch.compile(flex.flex_attention, dynamic=True, fullgraph=True)  # a whole graph, or an error


def compiled_flex_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: BlockMask | Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """[R, heads, Q, d] and [R, key heads, K, d] -> [R, Q, heads, d], as transformers calls attention.

    Rows that are not packed have no block mask; they use transformers' own attention.

    Raises:
        ValueError: torch would compile more graphs than its limit allows
    """
    assert softcap is None and s_aux is None, "such models have masks of their own"
    if not isinstance(attention_mask, BlockMask):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)
    query, key = query.to(value.dtype), key.to(value.dtype)  # under autocast, rotated ones are float32
    repeats = query.shape[1] // key.shape[1]
    if query.shape[1] & (query.shape[1] - 1):  # as transformers does: kernels take groups of powers of two
        key, value, repeats = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1), 1
    try:
        attended = _compiled()(query, key, value, block_mask=attention_mask, scale=scaling, enable_gqa=repeats > 1)
    except FailOnRecompileLimitHit as error:
        raise ValueError(
            f"model.attention: torch has compiled FlexAttention {torch._dynamo.config.recompile_limit} times and would "
            "run it uncompiled from now on, in far more memory; set model.attention to sdpa"
        ) from error
    return attended.transpose(1, 2).contiguous(), None
