"""SIGINT and SIGTERM as an exception that never lands in the middle of an optimizer step or a save.

Where several ranks run, each holds a signal back, except in the work that it does on its own (``ranks.run_together``):
there all ranks learn of it, and stop at the same point.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType

WaitingSignal = tuple[int, float]
"""A signal that was not taken yet: its number, and the time since which it waits, as of ``time.monotonic``."""


class Interrupted(BaseException):
    """The run was asked to stop; ``exit_code`` is 128 plus the signal's number.

    Not an ``Exception``: what guards against faulty rows or tasks must let it pass.
    """

    def __init__(self, signal_number: int):
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number


_num_deferring = 0
_is_held = False
_is_relayed = False  # the next signal comes from another rank
_pending: WaitingSignal | None = None
_heard: WaitingSignal | None = None  # by a thread that listens, perhaps before the main thread could
_handled_at = 0.0  # when the main thread last handled a signal
_LAG_SECONDS = 2.0  # at most, between a signal and the listening thread's look


@contextmanager
def interrupts_raise() -> Iterator[None]:
    """Within, the first SIGINT or SIGTERM raises ``Interrupted``; a second one ends the process at once."""
    clear_pending()
    previous = {number: signal.signal(number, _on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        clear_pending()


@contextmanager
def deferred_interrupts() -> Iterator[None]:
    """Within, a signal waits until the end of the block."""
    global _num_deferring
    _num_deferring += 1
    try:
        yield
    finally:
        _num_deferring -= 1
    _raise_pending()


@contextmanager
def held_interrupts() -> Iterator[None]:
    """Within, a signal waits for ``admitted_interrupts``; also at the end of the block, for it may be out of step."""
    global _is_held
    _is_held = True
    try:
        yield
    finally:
        _is_held = False


@contextmanager
def admitted_interrupts() -> Iterator[None]:
    """Within, a signal that is held back raises at once, except in a block that defers it."""
    global _is_held
    was_held, _is_held = _is_held, False
    try:
        _raise_pending()
        yield
    finally:
        _is_held = was_held


@contextmanager
def heard_signals() -> Iterator[Callable[[], WaitingSignal | None]]:
    """Within, what it gives tells another thread of a signal that waits, and is to be called every second or so.

    Also of one that the main thread knows nothing of yet: in a long call outside of Python, as into a collective, it
    handles none.
    """
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    previous = signal.set_wakeup_fd(ends[1], warn_on_full_buffer=False)
    try:
        yield partial(_waiting_signal, ends[0])
    finally:
        signal.set_wakeup_fd(previous)
        for end in ends:
            os.close(end)


def _waiting_signal(end: int) -> WaitingSignal | None:
    global _heard
    try:
        numbers = [n for n in os.read(end, 4096) if n in (signal.SIGINT, signal.SIGTERM)]
    except BlockingIOError:  # none came
        numbers = []
    if numbers:
        _heard = numbers[0], time.monotonic()
    if _heard is not None and _handled_at > _heard[1] - _LAG_SECONDS:
        _heard = None
    return _pending or _heard


def is_at_deferred_work() -> bool:
    """Whether this rank does work of its own that no signal cuts short, as writing a checkpoint."""
    return _num_deferring > 0 and not _is_held


def clear_pending() -> None:
    """All ranks have taken the signal."""
    global _pending
    _pending = None


def relay_signal(number: int) -> None:
    """Passes on the signal of another rank, from a thread. It does not count: one from outside is still the first."""
    global _is_relayed
    _is_relayed = True
    thread = threading.main_thread().ident
    assert thread is not None
    signal.pthread_kill(thread, number)


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _pending, _handled_at, _is_relayed
    _handled_at = time.monotonic()
    if _pending is None:
        _pending = number, _handled_at
    if _is_relayed:
        _is_relayed = False
    else:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)
    _raise_pending()


def _raise_pending() -> None:
    if _pending is not None and _num_deferring == 0 and not _is_held:
        number, _ = _pending
        clear_pending()
        raise Interrupted(number)
