"""The optimizer's state as it would be read from a checkpoint, without one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gpg_vl.update.optimizer_state import Slice, StoredTensor


@dataclass(frozen=True, slots=True)
class Held:
    """A whole tensor in memory."""

    tensor: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.tensor.shape

    def read(self, start: int, num: int) -> Tensor:
        return self.tensor.flatten()[start : start + num]


def whole_tensors(portion: Mapping[str, Slice]) -> dict[str, Tensor]:
    """Those of a process that shares nothing, by ``PARAMETER/ENTRY``."""
    assert all(each.is_whole for each in portion.values())
    return {key: each.values.view(each.shape) for key, each in portion.items()}


def as_stored(portion: Mapping[str, Slice]) -> Callable[[str], Mapping[str, StoredTensor]]:
    """As ``load_entries`` asks for them."""
    tensors = whole_tensors(portion)

    def stored(name: str) -> dict[str, StoredTensor]:
        return {key.rpartition("/")[2]: Held(each) for key, each in tensors.items() if key.rpartition("/")[0] == name}

    return stored
