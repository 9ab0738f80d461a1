"""Whole weights on every rank, for layouts that shard them."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakKeyDictionary

import psutil
import torch
from accelerate import Accelerator

from gpg_vl.processes.sharding import sharding_of


class Gathering(Protocol):
    """What gathers the weights that ranks share. All ranks call it together."""

    def whole(self) -> AbstractContextManager[None]:
        """As ``whole_weights``."""

    def in_float32(self) -> AbstractContextManager[None]:
        """As ``weights_in_float32``."""

    def to_save(self) -> AbstractContextManager[None]:
        """As ``weights_to_save``."""

    def in_turn(self) -> AbstractContextManager[None]:
        """As ``weights_in_turn``."""

    def there(self, names: Collection[str]) -> AbstractContextManager[None]:
        """As ``weights_there``."""


_gatherings: WeakKeyDictionary[Accelerator, Gathering] = WeakKeyDictionary()


def provide_gathering(accelerator: Accelerator, gathering: Gathering) -> None:
    """From here on, it is what the functions below use."""
    _gatherings[accelerator] = gathering


def whole_weights(accelerator: Accelerator) -> AbstractContextManager[None]:
    """Inside, every rank has all weights, to generate or to measure. All ranks enter and leave it together.

    Where ranks share them, they are gathered once, each in the type that it is computed in.
    """
    if sharding_of(accelerator).keeps_whole_weights:
        return nullcontext()
    return _gatherings[accelerator].whole()


def weights_in_float32(accelerator: Accelerator) -> AbstractContextManager[None]:
    """As ``whole_weights``, and what ranks share is computed with in float32, to compare what it computes.

    Layers that could be computed in less are gathered so, and widened one at a time as they run. Weights that the
    adapter itself has rounded are its own to widen (``Adapter.running_in_float32``).
    """
    if sharding_of(accelerator).keeps_whole_weights:
        return nullcontext()
    return _gatherings[accelerator].in_float32()


def weights_to_save(accelerator: Accelerator) -> AbstractContextManager[None]:
    """Inside, the first rank has all weights that a model folder holds, to save them in float32.

    Those under a LoRA adapter have no values. All ranks enter and leave it together.
    """
    if sharding_of(accelerator).keeps_whole_weights:
        return nullcontext()
    return _gatherings[accelerator].to_save()


def weights_in_turn(accelerator: Accelerator) -> AbstractContextManager[None]:
    """Inside, weights can be read where ``weights_there`` names them. All ranks enter and leave it together."""
    if sharding_of(accelerator).keeps_whole_weights:
        return nullcontext()
    return _gatherings[accelerator].in_turn()


def weights_there(accelerator: Accelerator, names: Collection[str]) -> AbstractContextManager[None]:
    """Within ``weights_in_turn``: inside, these weights are there, by the names of the model's state, and no others.

    All ranks enter and leave it together, for the same names.
    """
    if sharding_of(accelerator).keeps_whole_weights:
        return nullcontext()
    return _gatherings[accelerator].there(names)


@dataclass(frozen=True, slots=True)
class GatherCost:
    needed: int  # bytes of all weights
    free: int  # free bytes on this rank's device before


def check_whole_weights_fit(accelerator: Accelerator, needed: int) -> GatherCost | None:
    """Memory that a rollout's gathered weights take on each rank; None if nothing is gathered.

    Args:
        needed: bytes of all weights

    Raises:
        ValueError: they do not fit
    """
    sharding = sharding_of(accelerator)
    if sharding.keeps_whole_weights:
        return None
    cost = GatherCost(needed, _free_bytes(accelerator))
    if cost.needed > cost.free:
        raise ValueError(
            f"with {sharding.title} the rollout gathers all weights on every rank: {cost.needed / 2**30:.1f} GiB, but "
            f"rank {accelerator.process_index} has {cost.free / 2**30:.1f} GiB free; use GPUs with more memory, or a "
            "smaller model"
        )
    return cost


def _free_bytes(accelerator: Accelerator) -> int:
    if accelerator.device.type == "cuda":
        return torch.cuda.mem_get_info(accelerator.device)[0]
    available: int = psutil.virtual_memory().available  # includes file cache that the system would reclaim
    return available // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
