"""How the ranks of a run start, with accelerate and DeepSpeed."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from datetime import timedelta
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch.distributed import DistStoreError, TCPStore
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from gpg_vl.processes.collectives import LONGEST_WAIT, gather_object
from gpg_vl.processes.ranks import RankError, failing_as_one, run_together
from gpg_vl.processes.sharding import offloads_optimizer, sharding_of

JOIN_SECONDS = 600.0
"""Time for all processes to start, from when the launchers of all nodes have found each other."""
_LEFT = "left"


def start_ranks(*, on_cpu: bool = False) -> Accelerator:
    """Joins the processes that torchrun, accelerate or ``scripts/train.sh`` started; otherwise a single process.

    DeepSpeed is enabled by accelerate's own variables, ACCELERATE_USE_DEEPSPEED and ACCELERATE_DEEPSPEED_CONFIG_FILE;
    FSDP2 by GPG_VL_SHARDING.

    Args:
        on_cpu: use no GPU, though there is one

    Raises:
        ValueError: no such layout, the DeepSpeed file enables something that would make the update inexact, or the
            processes cannot share as they were told. Of several ranks the first raises it, the others exit
    """
    with_gpu = torch.cuda.is_available()
    backend = "nccl" if with_gpu and not on_cpu else "gloo"
    if backend == "gloo":
        _do_not_compile()
    _meet(backend)
    handlers = [InitProcessGroupKwargs(backend=backend, timeout=LONGEST_WAIT)] if "WORLD_SIZE" in os.environ else []
    accelerator = Accelerator(cpu=with_gpu and on_cpu, mixed_precision="no", kwargs_handlers=handlers)
    with failing_as_one():
        run_together(lambda: _check_layout(accelerator))
        _check_alike(accelerator)
    if accelerator.state.deepspeed_plugin is not None:
        # otherwise transformers would shard while loading and save under other names; layouts.py shards instead
        unset_hf_deepspeed_config()
    if sharding_of(accelerator).is_fsdp and not torch.distributed.is_initialized():  # a single process
        torch.distributed.init_process_group(backend, rank=0, world_size=1, store=torch.distributed.HashStore())
    return accelerator


def _meet(backend: str) -> None:
    """Waits for the other ranks in the launcher's store: to join one that ended before, or that talks in another way,
    takes as long as the longest wait. Without a launcher of torch there is no store yet.

    Raises:
        ValueError: on the first rank that is there
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return
    rank, num_ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, wait_for_workers=False,
    )  # fmt: skip
    keys = [f"gpg_vl/start/{each}" for each in range(num_ranks)]
    store.set(keys[rank], f"{backend} {socket.gethostname()}")
    with suppress(DistStoreError):
        store.wait(keys, timedelta(seconds=JOIN_SECONDS))
    missing = [each for each, key in enumerate(keys) if not store.check([key])]
    if missing:
        store.set(keys[rank], f"{_LEFT} {socket.gethostname()}")  # so that one that comes late does not wait for it
        first = min({*range(num_ranks)} - {*missing})
        _refuse(
            rank == first,
            f"after {JOIN_SECONDS:g} s, {len(missing)} of {num_ranks} processes have not started, the first of them "
            f"rank {missing[0]}; the log of its node says why",
        )
    said = [store.get(key).decode().split() for key in keys]
    left = [f"rank {each} on {host}" for each, (of_rank, host) in enumerate(said) if of_rank == _LEFT]
    if left:
        raise ValueError(f"{left[0]} has ended: it waited {JOIN_SECONDS:g} s for this one; start all of them again")
    others = [f"rank {each} on {host}" for each, (of_rank, host) in enumerate(said) if of_rank != said[0][0]]
    if others:
        _refuse(
            rank == 0,
            f"rank 0 on {said[0][1]} talks over {said[0][0]}, and {others[0]} does not: one has no GPU that torch "
            "sees, or another model.device; start all of them alike",
        )


def _refuse(is_first: bool, cause: str) -> NoReturn:
    if is_first:
        raise ValueError(cause)
    raise SystemExit(2)


def _check_layout(accelerator: Accelerator) -> None:
    plugin = accelerator.state.deepspeed_plugin
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true" and plugin is None:
        raise ValueError("DeepSpeed was requested, but accelerate ignores it; unset ACCELERATE_USE_CPU")
    if plugin is not None:
        _check_deepspeed(plugin.deepspeed_config)
    sharding_of(accelerator)  # refuses one that there is not


def ranks_of_node() -> int:
    """How many ranks this one's node has."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _check_alike(accelerator: Accelerator) -> None:
    """
    Raises:
        RankError: the processes were started with different layouts, or HSDP on nodes of different sizes
    """
    name = sharding_of(accelerator).name
    names, sizes = sorted(set(gather_object([name]))), sorted(set(gather_object([ranks_of_node()])))
    if len(names) > 1:
        raise RankError(
            f"the processes share in different ways: {' and '.join(names)}; start all of them with one SHARDING"
        )
    if name == "hsdp" and (len(sizes) > 1 or accelerator.num_processes % sizes[0]):
        raise RankError(
            f"HSDP needs as many processes on each node, not {' and '.join(map(str, sizes))} of "
            f"{accelerator.num_processes}; set NUM_PROCESSES alike on each, or use SHARDING=fsdp"
        )


def _do_not_compile() -> None:
    """Keeps DeepSpeed from building an extension for CPU ranks in shared memory when they start.

    The build takes minutes and needs a compiler, and a killed build leaves a lock that every later start waits for.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        from deepspeed.ops import __compatible_ops__

        __compatible_ops__["deepspeed_shm_comm"] = False


def _check_deepspeed(config: dict[str, Any]) -> None:
    for key in ("bf16", "fp16", "torch_autocast"):
        if config.get(key, {}).get("enabled") is True:
            raise ValueError(
                f"the DeepSpeed file enables {key}; remove it: model.dtype sets the compute type, and weights stay "
                "float32"
            )
    if offloads_optimizer(config) and config.get("zero_force_ds_cpu_optimizer", True):
        raise ValueError(
            "the DeepSpeed file offloads the optimizer to DeepSpeed's own AdamW, whose state cannot be saved; set "
            "zero_force_ds_cpu_optimizer to false, as scripts/deepspeed/zero3_offload.json does"
        )
    steps = config.get("gradient_accumulation_steps", 1)
    if steps not in (1, "auto"):
        raise ValueError(
            f"the DeepSpeed file has gradient_accumulation_steps={steps}; set it to 1: a step's micro-batches follow "
            "from update.tokens_per_micro_batch"
        )
