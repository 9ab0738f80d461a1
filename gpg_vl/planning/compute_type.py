"""What a kernel of the real device keeps for the backward pass, on the meta device, which has neither.

Attention is one kernel there, which keeps no scores. Autocast, which knows no meta tensors, is followed as torch does
it on CUDA: products in bfloat16, norms and softmax in float32, and the casts of trained weights are made once a pass.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

_PRODUCTS = {
    F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, torch.baddbmm, torch.addmm, torch.einsum,
    F.conv1d, F.conv2d, F.conv3d, torch.conv1d, torch.conv2d, torch.conv3d, F.scaled_dot_product_attention,
}  # fmt: skip
_EXACT = {F.layer_norm, F.softmax, torch.softmax, Tensor.softmax}


class ComputeType(TorchFunctionMode):
    """Follows autocast while ``torch.autocast("cpu")`` is on, which ``checkpoint`` keeps for what it computes again."""

    def __init__(self) -> None:
        super().__init__()
        self._casts: dict[int, Tensor] = {}

    def end_pass(self) -> None:
        """Forgets the casts of weights, as autocast does at its end."""
        self._casts = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_autocast_enabled("cpu") and (func in _PRODUCTS or func in _EXACT):
            low = torch.bfloat16 if func in _PRODUCTS else torch.float32

            def cast(value: Any) -> Any:
                return self._cast(value, low)

            args, kwargs = tree_map(cast, args), tree_map(cast, kwargs)
        if func is F.scaled_dot_product_attention and args[0].is_meta:
            return _attend(*args, **kwargs)
        return func(*args, **kwargs)

    def _cast(self, value: Any, dtype: torch.dtype) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype == dtype:
            return value
        if not (value.is_leaf and value.requires_grad):
            return value.to(dtype)
        if id(value) not in self._casts:
            self._casts[id(value)] = value.to(dtype)
        return self._casts[id(value)]


def _attend(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
    """Shapes of ``scaled_dot_product_attention``."""
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = attn_mask.to(query.dtype)
    output: Tensor = _Fused.apply(query, key, value, attn_mask)
    return output


class _Fused(torch.autograd.Function):
    """Keeps query, key, value, output and a number for each row of scores."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, sums, mask)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None
