"""SIGINT and SIGTERM as an exception that never lands in the middle of an optimizer step or a save.

Where several ranks run, each holds a signal back, except in the work that it does on its own (``ranks.run_together``):
there all ranks learn of it, and stop at the same point.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


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
_pending: int | None = None
_pending_since = 0.0


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


def pending_signal() -> tuple[int, float] | None:
    """The number of a signal that waits, and for how many seconds it has."""
    number, since = _pending, _pending_since
    return None if number is None else (number, time.monotonic() - since)


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
    global _pending, _pending_since, _is_relayed
    if _pending is None:
        _pending, _pending_since = number, time.monotonic()
    if _is_relayed:
        _is_relayed = False
    else:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)
    _raise_pending()


def _raise_pending() -> None:
    if _pending is not None and _num_deferring == 0 and not _is_held:
        number = _pending
        clear_pending()
        raise Interrupted(number)
