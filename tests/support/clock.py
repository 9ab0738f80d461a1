"""How much slower this processor is than the one that the tests' bounds of processor time are meant for; waiting."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

REFERENCE = 0.05
"""Seconds for ``_work`` within which the bounds hold as they are written."""


def slowness() -> float:
    """By which to multiply a bound of processor time: 1 on a processor that is fast enough, 2 on one half as fast.

    It is measured when it is asked for, since other work on the same core slows a processor down too.
    """
    return max(1.0, min(_work() for _ in range(3)) / REFERENCE)


def takes_less_than(seconds: float, work: Callable[[], object], tries: int = 3) -> bool:
    """Whether the processor time of some try is below the bound, on this processor.

    What is slow is slow every time; the collector and other threads of the process are not.
    """
    return any(is_below(seconds_of(work), seconds) for _ in range(tries))


def is_below(taken: float, seconds: float) -> bool:
    """Whether a processor time is below a bound, on this processor."""
    return taken < seconds or taken < seconds * slowness()


def holds_for_seconds(
    bound: Callable[..., bool], lengths: Sequence[int], work: Callable[[int], object], tries: int = 10
) -> bool:
    """Whether a bound holds for the processor time at each length, of the quickest of as many tries as it takes.

    The lengths take turns, so that what slows one down slows the others too.
    """
    best = [math.inf] * len(lengths)
    for _ in range(tries):
        best = [min(least, seconds_of(partial(work, each))) for least, each in zip(best, lengths, strict=True)]
        if bound(*best):
            return True
    return False


def seconds_of(work: Callable[[], object]) -> float:
    """Processor time of this process, for a work that no text was read for before."""
    _forget_texts()
    start = time.process_time()
    work()
    return time.process_time() - start


def _forget_texts() -> None:
    """Empties what readers remember of the texts that they have read: caches of a limited size."""
    for name in [name for name in sys.modules if name.startswith(("gpg_vl.verifiers", "gpg_vl.tasks"))]:
        for each in vars(sys.modules[name]).values():
            if getattr(each, "cache_parameters", dict)().get("maxsize") is not None:
                each.cache_clear()


def _work() -> float:
    start = time.process_time()
    total = 0
    for number in range(300_000):
        total += number * number % 7
    {str(number): number for number in range(60_000)}
    return time.process_time() - start


def wait_until(condition: Callable[[], object], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False
