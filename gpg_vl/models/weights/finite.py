"""Whether weights are numbers: one NaN makes every output NaN, and every reward a matter of chance."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class NotFinite(ValueError):
    """A weight or a logit is NaN or infinite."""


def refuse_not_finite(model: nn.Module, what: str, way_out: str) -> None:
    """A buffer of one number may be infinite: it is a bound, and such a one cuts nothing.

    Args:
        what: what messages call the weights, as "model.path: the weights in models/a"

    Raises:
        NotFinite: names the first weight that holds a NaN or an infinity
    """
    weights = model.state_dict()
    bounds = {name for name, buffer in model.named_buffers() if not buffer.dim()}
    bad = [name for name, weight in weights.items() if not _is_finite(weight, or_infinite=name in bounds)]
    if bad:
        raise NotFinite(
            f"{what}: {len(bad)} of {len(weights)} tensors are not finite (NaN or infinite), the first is {bad[0]}; "
            f"{way_out}"
        )


def _is_finite(tensor: Tensor, *, or_infinite: bool) -> bool:
    """Makes no copy: a NaN and an infinity show in the smallest and the largest number."""
    if not tensor.is_floating_point() or not tensor.numel() or tensor.is_meta:
        return True
    if or_infinite:
        return not bool(tensor.isnan())
    return bool(torch.isfinite(torch.stack(torch.aminmax(tensor.detach()))).all())
