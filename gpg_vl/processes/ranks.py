"""The ranks of a run: how they start, agree, and hold the weights. What accelerate and DeepSpeed need stands here.

Every rank goes through the same collectives in the same order. So whatever can fail on one rank alone (rows, rewards,
generation) runs in ``run_together``: its failure becomes that of all ranks, instead of a wait for the one that failed.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any, TypeVar

import torch
from accelerate import Accelerator

from gpg_vl.processes.interrupts import Interrupted, admitted_interrupts, clear_pending
from gpg_vl.records import StepTotals

T = TypeVar("T")


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


def end_ranks() -> None:
    """Closes the connections between ranks that all end now; threads of an open one may abort a process that exits."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


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


def is_main_rank() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def note(text: str) -> None:
    """A line on standard error, once for all ranks."""
    if is_main_rank():
        print(text, file=sys.stderr, flush=True)


def run_on_main(work: Callable[[], T]) -> T:
    """The result of ``work``, done by the first rank alone, on every rank; so is its failure."""
    result = run_together(lambda: work() if is_main_rank() else None)
    return gather_object([result])[0]  # type: ignore[return-value]


def sum_over_ranks(accelerator: Accelerator, values: list[int]) -> list[int]:
    return [int(x) for x in _reduced(accelerator, values, torch.int64, torch.distributed.ReduceOp.SUM)]


def sum_totals(accelerator: Accelerator, totals: Sequence[StepTotals]) -> list[StepTotals]:
    """Field by field over the ranks; every rank has as many of them."""
    counts = [count for each in totals for count in astuple(each)]
    width = len(fields(StepTotals))
    summed = sum_over_ranks(accelerator, counts)
    return [StepTotals(*summed[i : i + width]) for i in range(0, len(summed), width)]


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
