"""The ranks of a run: how they start, agree, and hold the weights. What accelerate and DeepSpeed need stands here.

Every rank goes through the same collectives in the same order. So whatever can fail on one rank alone (rows, rewards,
generation) runs in ``run_together``: its failure becomes that of all ranks, instead of a wait for the one that failed.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from gpg_vl.processes.interrupts import Interrupted, admitted_interrupts, clear_pending
from gpg_vl.records import ScoredGroup

T = TypeVar("T")

_LONGEST_WAIT = timedelta(hours=4)
"""For the slowest rank, as in a long rollout; one that died is noticed by its launcher and ``rank_watch``."""


class RankError(ValueError):
    """Some rank failed; the message names it and its cause. Raised by all ranks together."""


class RankDiskError(OSError):
    """The same, where the cause is the disk."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """What the other ranks are told."""

    signal_number: int  # 0 where the rank was not interrupted
    is_disk: bool
    text: str


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


def end_ranks() -> None:
    """Closes the connections between ranks that all end now; threads of an open one may abort a process that exits."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def sharding_stage(accelerator: Accelerator) -> int:
    """ZeRO's stage: 0 nothing is sharded, 1 the optimizer, 2 the gradients as well, 3 the weights as well."""
    plugin = accelerator.state.deepspeed_plugin
    return 0 if plugin is None else int(plugin.zero_stage)


def gather_object(mine: list[T]) -> list[T]:
    """The lists of all ranks, one behind the other."""
    if not torch.distributed.is_initialized():
        return mine
    lists: list[list[T]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(lists, mine)
    return [each for of_rank in lists for each in of_rank]


def run_together(work: Callable[[], T]) -> T:
    """The result of ``work``, or an exception on every rank where it failed on some rank.

    Also where signals are taken, by all ranks at once; ``work`` may be cut off by one anywhere.

    Raises:
        Exception: that of ``work``, in a run of one process
        RankError: in a run of several
        Interrupted: some rank had a signal
    """
    failure: Exception | Interrupted | None = None
    result: T | None = None
    try:
        with admitted_interrupts():
            result = work()
    except (Exception, Interrupted) as error:  # noqa: BLE001  the others would wait for this rank
        failure = error
    failures = gather_object([_describe(failure)])
    if failure is not None and len(failures) == 1:
        raise failure
    if failure is not None and not isinstance(failure, ValueError | OSError | Interrupted):
        traceback.print_exception(failure)
    _raise_together(failures, failure)
    return result  # type: ignore[return-value]


def _describe(failure: Exception | Interrupted | None) -> _Failure | None:
    if failure is None:
        return None
    if isinstance(failure, Interrupted):
        return _Failure(failure.signal_number, is_disk=False, text="")
    text = str(failure) if isinstance(failure, ValueError | OSError) else f"{type(failure).__name__}: {failure}"
    return _Failure(0, isinstance(failure, OSError), text)


def _raise_together(failures: Sequence[_Failure | None], own: BaseException | None) -> None:
    """The first error of all ranks; else the first signal; else nothing."""
    is_of_all = len(set(failures)) == 1
    for rank, failure in enumerate(failures):
        if failure is not None and not failure.signal_number:
            text = failure.text if is_of_all else f"rank {rank}: {failure.text}"
            raise (RankDiskError if failure.is_disk else RankError)(text) from own
    for failure in failures:
        if failure is not None:
            clear_pending()
            raise Interrupted(failure.signal_number) from own


def run_on_main(work: Callable[[], T]) -> T:
    """The result of ``work``, done by the first rank alone, on every rank; so is its failure."""
    is_main = int(os.environ.get("RANK", "0")) == 0
    result = run_together(lambda: work() if is_main else None)
    return gather_object([result])[0]  # type: ignore[return-value]


def sum_over_ranks(accelerator: Accelerator, values: list[int]) -> list[int]:
    return [int(x) for x in _reduced(accelerator, values, torch.int64, torch.distributed.ReduceOp.SUM)]


def max_over_ranks(accelerator: Accelerator, value: int) -> int:
    return int(_reduced(accelerator, [value], torch.int64, torch.distributed.ReduceOp.MAX)[0])


def sum_losses(accelerator: Accelerator, value: float) -> float:
    """A sum of which every rank has a part."""
    return _reduced(accelerator, [value], torch.float64, torch.distributed.ReduceOp.SUM)[0]


def _reduced(accelerator: Accelerator, values: list[Any], dtype: torch.dtype, how: Any) -> list[Any]:
    if accelerator.num_processes == 1:
        return values
    tensor = torch.tensor(values, dtype=dtype, device=accelerator.device)
    torch.distributed.all_reduce(tensor, op=how)
    return tensor.tolist()  # type: ignore[no-any-return]


def gather_groups(*lists: Sequence[ScoredGroup]) -> list[list[ScoredGroup]]:
    """Each list with the groups of all ranks, rank by rank, without images and positions.

    A group that is in several lists is the same object in each of them.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return [list(groups) for groups in lists]
    light = {id(group): _without_tensors(group) for groups in lists for group in groups}
    gathered = gather_object([[[light[id(group)] for group in groups] for groups in lists]])
    return [[group for of_rank in gathered for group in of_rank[n]] for n in range(len(lists))]


def _without_tensors(group: ScoredGroup) -> ScoredGroup:
    sample = replace(group.prompt.sample, images=())
    nothing = torch.empty(3, 0, dtype=torch.long)
    prompt = replace(group.prompt, sample=sample, position_ids=nothing, pixel_values=None, image_grid_thw=None)
    return replace(group, prompt=prompt)


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
