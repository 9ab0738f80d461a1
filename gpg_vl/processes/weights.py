"""Whole weights on every rank, for layouts that shard them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakKeyDictionary

import psutil
import torch
from accelerate import Accelerator

from gpg_vl.processes.pulse import PULSE
from gpg_vl.processes.sharding import sharding_of


class Gathering(Protocol):
    """What gathers the weights that FSDP2 has sharded. All ranks call it together."""

    def whole(self, *, is_exact: bool = False) -> AbstractContextManager[None]:
        """As ``whole_weights``."""

    def to_save(self) -> AbstractContextManager[None]:
        """As ``weights_to_save``."""


_gatherings: WeakKeyDictionary[Accelerator, Gathering] = WeakKeyDictionary()


def provide_gathering(accelerator: Accelerator, gathering: Gathering) -> None:
    """From here on, it is what ``whole_weights`` and ``weights_to_save`` use."""
    _gatherings[accelerator] = gathering


@contextmanager
def whole_weights(accelerator: Accelerator, *, is_exact: bool = False) -> Iterator[None]:
    """Inside, every rank has all weights, to generate or to measure. All ranks enter and leave it together.

    Under ZeRO-3 they are gathered once, in float32. DeepSpeed's hooks are off inside: they would record the modules
    called here as the update's order, which differs between ranks. After an exception they stay off. Under FSDP2 they
    are gathered once, in the compute type.

    Args:
        is_exact: in float32, whatever the layout, unless the adapter itself has rounded weights
    """
    sharding = sharding_of(accelerator)
    if sharding.keeps_whole_weights:
        yield
    elif sharding.is_fsdp:
        with _gatherings[accelerator].whole(is_exact=is_exact):
            yield
    else:
        from deepspeed.runtime.zero.stage3 import unwrap_model_for_generation

        with ExitStack() as stack:
            with PULSE.beating("the gathering of weights"):
                stack.enter_context(unwrap_model_for_generation(accelerator.deepspeed_engine_wrapped.engine))
            yield


def weights_to_save(accelerator: Accelerator) -> AbstractContextManager[None]:
    """Inside, the first rank has all weights, to save them in float32. All ranks enter and leave it together."""
    if sharding_of(accelerator).is_fsdp:
        return _gatherings[accelerator].to_save()
    return whole_weights(accelerator)


@dataclass(frozen=True, slots=True)
class GatherCost:
    needed: int  # bytes of all weights
    free: int  # free bytes on this rank's device before


def check_whole_weights_fit(accelerator: Accelerator, num_weights: int, *, is_rounded: bool) -> GatherCost | None:
    """Memory that a rollout's gathered weights take on each rank; None if nothing is gathered.

    Args:
        is_rounded: whether the compute type is bfloat16

    Raises:
        ValueError: they do not fit
    """
    sharding = sharding_of(accelerator)
    if sharding.keeps_whole_weights:
        return None
    bytes_each = 2 if is_rounded and sharding.computes_rounded else 4
    cost = GatherCost(bytes_each * num_weights, _free_bytes(accelerator))
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
