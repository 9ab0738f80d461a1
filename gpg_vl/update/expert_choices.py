"""Which experts the routers of a mixture choose, in packed rows and in plain ones.

A choice that hangs on the last bit may fall either way in two orders of the same sum. A mask or position that is wrong
turns far more of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gpg_vl.models.routers import find_routers

Choices = list[Tensor]
"""[tokens, K] experts in ascending order, by layer; of several forwards one after the other."""


@contextmanager
def recording_choices(model: nn.Module) -> Iterator[Choices]:
    """Within, the list fills with what every router of the model chooses; it stays empty where there is none."""
    found: Choices = []

    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, tuple) and not output[-1].is_floating_point():
            found.append(output[-1].sort(-1).values)

    handles = [router.register_forward_hook(record) for router in find_routers(model)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def changed_share(packed: Choices, plain: Choices, places: Sequence[Tensor]) -> float:
    """Share of the tokens and layers in which a plain row chooses other experts than the packed one.

    Args:
        packed: of one forward
        plain: of as many forwards as there are ``places``
        places: for each plain row, where its tokens are in the packed forward; its last token may not be there
    """
    if not packed:
        return 0.0
    changed = [
        (of_packed[places[row]] != of_plain[: len(places[row])]).any(-1).float()
        for row in range(len(places))
        for of_packed, of_plain in zip(packed, plain[row * len(packed) :], strict=False)
    ]
    return float(torch.cat(changed).mean())
