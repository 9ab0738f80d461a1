"""Norms and gated layers by torch.compile: one kernel each for what is computed element by element.

States are made two-dimensional first, so that a few graphs serve text, vision and heads.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_MOST_GRAPHS = 64
"""Of each formula; torch's own limit of 8 is below what widths, types and gradients make of it."""


def norm(module: Any, states: Tensor) -> Tensor:
    flat = states.reshape(-1, states.shape[-1])
    return _compiled(_norm)(flat, module.weight, module.variance_epsilon).view(states.shape)  # type: ignore[no-any-return]


def gate(module: Any, states: Tensor) -> Tensor:
    flat = states.reshape(-1, states.shape[-1])
    gated = _compiled(_gate)(module.gate_proj(flat), module.up_proj(flat))
    return module.down_proj(gated).view(*states.shape[:-1], -1)  # type: ignore[no-any-return]


@cache
def _compiled(formula: Any) -> Any:
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_GRAPHS)
    return torch.compile(formula, fullgraph=True)


def _norm(states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """In float32, rounded before the weight is multiplied, as transformers does it."""
    wide = states.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)).to(states.dtype)


def _gate(gates: Tensor, values: Tensor) -> Tensor:
    return F.silu(gates) * values
