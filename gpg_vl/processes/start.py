"""How the ranks of a run start, with accelerate and DeepSpeed."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

_LONGEST_WAIT = timedelta(hours=4)
"""For the slowest rank, as in a long rollout; one that died is noticed by its launcher and ``rank_watch``."""


def start_ranks() -> Accelerator:
    """Takes up the processes that torchrun, accelerate or ``scripts/train.sh`` started; one process without them.

    DeepSpeed comes in by accelerate's own variables: ACCELERATE_USE_DEEPSPEED and ACCELERATE_DEEPSPEED_CONFIG_FILE.

    Raises:
        ValueError: the DeepSpeed file asks for what the update cannot keep exact
    """
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if backend == "gloo":
        _do_not_compile()
    handlers = [InitProcessGroupKwargs(backend=backend, timeout=_LONGEST_WAIT)] if "WORLD_SIZE" in os.environ else []
    accelerator = Accelerator(mixed_precision="no", kwargs_handlers=handlers)
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true" and accelerator.state.deepspeed_plugin is None:
        raise ValueError("DeepSpeed was asked for, but accelerate leaves it out; unset ACCELERATE_USE_CPU")
    if accelerator.state.deepspeed_plugin is not None:
        _check_deepspeed(accelerator.state.deepspeed_plugin.deepspeed_config)
        # else transformers shards while it loads, and saves under other names than it loaded; layouts.py shards
        unset_hf_deepspeed_config()
    return accelerator


def _do_not_compile() -> None:
    """Keeps DeepSpeed from building an extension for CPU ranks in shared memory when they start.

    It takes minutes, needs a compiler, and one that is killed leaves a lock on which every later start waits for ever.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        from deepspeed.ops import __compatible_ops__

        __compatible_ops__["deepspeed_shm_comm"] = False


def _check_deepspeed(config: dict[str, Any]) -> None:
    for key in ("bf16", "fp16", "torch_autocast"):
        if config.get(key, {}).get("enabled") is True:
            raise ValueError(
                f"the DeepSpeed file enables {key}; take it out: model.dtype chooses the compute type, and weights "
                "stay float32"
            )
    steps = config.get("gradient_accumulation_steps", 1)
    if steps not in (1, "auto"):
        raise ValueError(
            f"the DeepSpeed file has gradient_accumulation_steps={steps}; set it to 1: a step's micro-batches follow "
            "from update.tokens_per_micro_batch"
        )


def sharding_stage(accelerator: Accelerator) -> int:
    """ZeRO's stage: 0 nothing is sharded, 1 the optimizer, 2 the gradients as well, 3 the weights as well."""
    plugin = accelerator.state.deepspeed_plugin
    return 0 if plugin is None else int(plugin.zero_stage)
