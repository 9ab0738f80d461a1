"""Exchange between ranks: objects, sums, maxima. All ranks call these together; a single process gets its own value.

It goes over gloo, also where tensors of GPUs go over NCCL: nothing is copied to a GPU, whose memory may be full.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, fields
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar

import torch
from accelerate import Accelerator

from gpg_vl.processes.pulse import PULSE
from gpg_vl.records import StepTotals

T = TypeVar("T")

LONGEST_WAIT = timedelta(hours=4)
"""Time to wait for the slowest rank, e.g. in a long rollout; its launcher and ``rank_watch`` notice one that died."""
_MARGIN_SECONDS = 60.0  # in which rank_watch, which says more, comes first


def _is_alone() -> bool:
    return not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1


def host_group() -> Any:
    """All ranks over gloo, for what is in the host's memory; None if the default group is that.

    All ranks call it together the first time. It ends with the default group (``ranks.end_ranks``).
    """
    return _host_group(torch.distributed.group.WORLD)


@lru_cache(maxsize=1)
def _host_group(world: Any) -> Any:
    """
    Args:
        world: the default group, of which there may be another one later in this process
    """
    is_gloo = torch.distributed.get_backend(world) == "gloo"
    # torch's own limit for gloo is half an hour, whatever that of the default group is
    return None if is_gloo else torch.distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)


def forget_groups() -> None:
    """Once the default group has ended."""
    _host_group.cache_clear()


@contextmanager
def in_step(limit_seconds: float) -> Iterator[None]:
    """Inside, all ranks do the same at the same time: one that waits much longer than the limit fails.

    Holds in every group of ranks, those of a mesh and DeepSpeed's own among them.
    """
    if _is_alone():
        yield
        return
    host_group()
    groups = _groups()
    _set_timeouts(groups, timedelta(seconds=limit_seconds + _MARGIN_SECONDS))
    try:
        yield
    finally:
        _set_timeouts(groups, LONGEST_WAIT)


def _set_timeouts(groups: Iterable[Any], timeout: timedelta) -> None:
    for group in groups:
        group.set_timeout(timeout)


def _groups() -> list[Any]:
    """All that this rank is in, over gloo or NCCL."""
    groups: list[Any] = list(torch.distributed.distributed_c10d._world.pg_map)  # no public list of them
    return [group for group in groups if torch.distributed.get_backend(group) in ("gloo", "nccl")]


def count_collectives() -> int:
    """How many this rank has entered so far, over all groups."""
    if not torch.distributed.is_initialized():
        return 0
    return sum(group._get_sequence_number_for_group() for group in _groups())


def gather_object(mine: list[T]) -> list[T]:
    """The concatenated lists of all ranks."""
    if _is_alone():
        return mine
    lists: list[list[T]] = [[] for _ in range(torch.distributed.get_world_size())]
    with PULSE.waiting():
        torch.distributed.all_gather_object(lists, mine, group=host_group())
    return [each for of_rank in lists for each in of_rank]


def sum_over_ranks(accelerator: Accelerator, values: list[int]) -> list[int]:
    return [int(x) for x in _reduced(accelerator, values, torch.int64, torch.distributed.ReduceOp.SUM)]


def sum_totals(accelerator: Accelerator, totals: Sequence[StepTotals]) -> list[StepTotals]:
    """Field by field; every rank passes the same number of them."""
    counts = [count for each in totals for count in astuple(each)]
    width = len(fields(StepTotals))
    summed = sum_over_ranks(accelerator, counts)
    return [StepTotals(*summed[i : i + width]) for i in range(0, len(summed), width)]


def max_over_ranks(accelerator: Accelerator, value: int) -> int:
    return int(_reduced(accelerator, [value], torch.int64, torch.distributed.ReduceOp.MAX)[0])


def sum_losses(accelerator: Accelerator, value: float) -> float:
    """The sum of all ranks' values."""
    return _reduced(accelerator, [value], torch.float64, torch.distributed.ReduceOp.SUM)[0]


def _reduced(accelerator: Accelerator, values: list[Any], dtype: torch.dtype, how: Any) -> list[Any]:
    if accelerator.num_processes == 1:
        return values
    tensor = torch.tensor(values, dtype=dtype)
    with PULSE.waiting():
        torch.distributed.all_reduce(tensor, op=how, group=host_group())
    return tensor.tolist()  # type: ignore[no-any-return]
