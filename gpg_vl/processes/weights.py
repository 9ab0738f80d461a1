"""Whole weights on every rank, for layouts that shard them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch
from accelerate import Accelerator

from gpg_vl.processes.start import sharding_stage


@contextmanager
def whole_weights(accelerator: Accelerator) -> Iterator[None]:
    """Inside, every rank has all weights, to generate or to save. All ranks enter and leave it together.

    With ZeRO-3 they are gathered once. DeepSpeed's hooks are off inside: they would record the modules called here as
    the update's order, which differs between ranks. After an exception they stay off.
    """
    if sharding_stage(accelerator) < 3:
        yield
        return
    from deepspeed.runtime.zero.stage3 import unwrap_model_for_generation

    with unwrap_model_for_generation(accelerator.deepspeed_engine_wrapped.engine):
        yield


@dataclass(frozen=True, slots=True)
class GatherCost:
    needed: int  # bytes of all weights
    free: int  # free bytes on this rank's device before


def check_whole_weights_fit(accelerator: Accelerator, num_weights: int) -> GatherCost | None:
    """Memory that a ZeRO-3 rollout's gathered float32 weights take on each rank; None if nothing is gathered.

    Raises:
        ValueError: they do not fit
    """
    if sharding_stage(accelerator) < 3:
        return None
    cost = GatherCost(4 * num_weights, _free_bytes(accelerator))
    if cost.needed > cost.free:
        raise ValueError(
            f"with ZeRO-3 the rollout gathers all weights on every rank: {cost.needed / 2**30:.1f} GiB, but rank "
            f"{accelerator.process_index} has {cost.free / 2**30:.1f} GiB free; use GPUs with more memory, or a "
            "smaller model"
        )
    return cost


def _free_bytes(accelerator: Accelerator) -> int:
    if accelerator.device.type == "cuda":
        return torch.cuda.mem_get_info(accelerator.device)[0]
    available: int = psutil.virtual_memory().available  # includes file cache that the system would reclaim
    return available // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
