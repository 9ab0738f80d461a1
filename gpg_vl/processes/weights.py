"""Whole weights on every rank, where a layout shards them."""

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
    """Within, every rank has all weights, to generate or to save. Entered and left by all ranks together.

    Under ZeRO-3 they are gathered once. DeepSpeed's hooks are off within: they would record the modules that are called
    as the order of the update's, which differs between ranks. After an exception they stay off.
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
    free: int  # bytes on this rank's device before


def check_whole_weights_fit(accelerator: Accelerator, num_weights: int) -> GatherCost | None:
    """What the gathered float32 weights of a ZeRO-3 rollout take on each rank; None where nothing is gathered.

    Raises:
        ValueError: they do not fit
    """
    if sharding_stage(accelerator) < 3:
        return None
    cost = GatherCost(4 * num_weights, _free_bytes(accelerator))
    if cost.needed > cost.free:
        raise ValueError(
            f"under ZeRO-3 the rollout gathers all weights on every rank: {cost.needed / 2**30:.1f} GiB, and rank "
            f"{accelerator.process_index} has {cost.free / 2**30:.1f} GiB free; use GPUs with more memory, or a "
            "smaller model"
        )
    return cost


def _free_bytes(accelerator: Accelerator) -> int:
    if accelerator.device.type == "cuda":
        return torch.cuda.mem_get_info(accelerator.device)[0]
    available: int = psutil.virtual_memory().available  # with what the system keeps of files, and gives back
    return available // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
