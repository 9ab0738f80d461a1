"""SIGINT and SIGTERM as an exception that never lands in the middle of an optimizer step or a save."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """The run was asked to stop; ``exit_code`` is 128 plus the signal's number.

    Not an ``Exception``: what guards against faulty rows or tasks must let it pass.
    """

    def __init__(self, signal_number: int):
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = 128 + signal_number


_num_deferring = 0
_pending: int | None = None


@contextmanager
def interrupts_raise() -> Iterator[None]:
    """Within, the first SIGINT or SIGTERM raises ``Interrupted``; a second one ends the process at once."""
    global _pending
    _pending = None
    previous = {number: signal.signal(number, _on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        _pending = None


@contextmanager
def deferred_interrupts() -> Iterator[None]:
    """Within, a signal waits until the end of the block."""
    global _num_deferring
    _num_deferring += 1
    try:
        yield
    finally:
        _num_deferring -= 1
    if _num_deferring == 0 and _pending is not None:
        raise Interrupted(_pending)


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _pending
    _pending = number
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_DFL)
    if _num_deferring == 0:
        raise Interrupted(number)
