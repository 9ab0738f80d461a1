"""Norms and gated layers by Liger's Triton kernels; imported only where they are asked for."""

from __future__ import annotations

from typing import Any

from liger_kernel.transformers.functional import liger_rms_norm, liger_swiglu
from torch import Tensor


def norm(module: Any, states: Tensor) -> Tensor:
    """In float32, rounded before the weight is multiplied, as transformers does it."""
    # not in place: the gradient that comes in may be read elsewhere
    return liger_rms_norm(states, module.weight, module.variance_epsilon, in_place=False)  # type: ignore[no-any-return]


def gate(module: Any, states: Tensor) -> Tensor:
    return module.down_proj(liger_swiglu(module.gate_proj(states), module.up_proj(states)))  # type: ignore[no-any-return]
