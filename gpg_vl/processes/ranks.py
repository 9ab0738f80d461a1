"""The ranks of a run as one: if work fails or is interrupted on one of them, it is on all.

Every rank must call the same collectives in the same order. So whatever can fail on one rank alone (rows, rewards,
generation) runs in ``run_together``: if one rank fails, all fail, instead of waiting for the one that failed.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

from gpg_vl.processes.collectives import forget_groups, gather_object
from gpg_vl.processes.interrupts import INTERRUPTS, Interrupted
from gpg_vl.screen import say

T = TypeVar("T")


class RankError(ValueError):
    """Some rank failed; the message names it and the cause. Raised on all ranks together."""


class RankDiskError(OSError):
    """The same, if the cause is the disk."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """What the other ranks are told about a failure."""

    signal_number: int  # 0 if the rank was not interrupted
    is_disk: bool
    text: str


def end_ranks() -> None:
    """Closes the connections between ranks that are all ending; an open one's threads may abort an exiting process."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        forget_groups()


@contextmanager
def failing_as_one() -> Iterator[None]:
    """Where all ranks raise inside, their connections are closed, and one line is said: the first rank's.

    It re-raises; the others exit with its code.
    """
    try:
        yield
    except (RankError, RankDiskError, Interrupted) as error:  # raised on all ranks
        end_ranks()
        if is_main_rank() or isinstance(error, Interrupted):
            raise
        raise SystemExit(2 if isinstance(error, RankError) else 1) from error


def run_together(work: Callable[[], T]) -> T:
    """The result of ``work``, or an exception on every rank if it failed on some rank.

    Here all ranks also handle signals together; a signal may interrupt ``work`` anywhere.

    Raises:
        Exception: the exception of ``work``, in a run of one process
        RankError: with several processes
        Interrupted: some rank received a signal
    """
    failure: Exception | Interrupted | None = None
    result: T | None = None
    try:
        with INTERRUPTS.admitted():
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
    """Raises the first error of all ranks, or else the first signal, if there is one."""
    is_of_all = len(set(failures)) == 1
    for rank, failure in enumerate(failures):
        if failure is not None and not failure.signal_number:
            text = failure.text if is_of_all else f"rank {rank}: {failure.text}"
            raise (RankDiskError if failure.is_disk else RankError)(text) from own
    for failure in failures:
        if failure is not None:
            INTERRUPTS.clear()
            raise Interrupted(failure.signal_number) from own


def own_rank() -> tuple[int, int]:
    """This process's number among those that have found each other, and how many they are."""
    if not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def is_main_rank() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def note(text: str) -> None:
    """Prints a line to standard error, once for all ranks."""
    if is_main_rank():
        say(text)


def run_on_main(work: Callable[[], T]) -> T:
    """Runs ``work`` on the first rank only; every rank gets its result or its failure."""
    result = run_together(lambda: work() if is_main_rank() else None)
    return gather_object([result])[0]  # type: ignore[return-value]
