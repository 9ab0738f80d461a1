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


_LAG_SECONDS = 2.0  # at most, between a signal and the listening thread's look


class Interrupts:
    """How a process takes SIGINT and SIGTERM. There is one, ``INTERRUPTS``: a process has one handler of a signal."""

    def __init__(self) -> None:
        self._num_deferring = 0
        self._is_held = False
        self._is_relayed = False  # the next signal comes from another rank
        self._pending: WaitingSignal | None = None
        self._heard: WaitingSignal | None = None  # by a thread that listens, perhaps before the main thread could
        self._handled_at = 0.0  # when the main thread last handled a signal

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Within, the first SIGINT or SIGTERM raises ``Interrupted``; a second one ends the process at once."""
        self.clear()
        previous = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            self.clear()

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within, a signal waits until the end of the block."""
        self._num_deferring += 1
        try:
            yield
        finally:
            self._num_deferring -= 1
        self._raise_pending()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within, a signal waits for ``admitted``; also at the end of the block, for it may be out of step."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Within, a signal that is held back raises at once, except in a block that defers it."""
        was_held, self._is_held = self._is_held, False
        try:
            self._raise_pending()
            yield
        finally:
            self._is_held = was_held

    @contextmanager
    def listening(self) -> Iterator[Callable[[], WaitingSignal | None]]:
        """Within, what it gives tells another thread of a signal that waits; to be called every second or so.

        Also of one that the main thread knows nothing of yet: in a long call outside of Python, as into a collective,
        it handles none.
        """
        ends = os.pipe()
        for end in ends:
            os.set_blocking(end, False)
        previous = signal.set_wakeup_fd(ends[1], warn_on_full_buffer=False)
        try:
            yield partial(self._waiting_signal, ends[0])
        finally:
            signal.set_wakeup_fd(previous)
            for end in ends:
                os.close(end)

    @property
    def is_at_deferred_work(self) -> bool:
        """Whether this rank does work of its own that no signal cuts short, as writing a checkpoint."""
        return self._num_deferring > 0 and not self._is_held

    def clear(self) -> None:
        """All ranks have taken the signal."""
        self._pending = None

    def relay(self, number: int) -> None:
        """Passes on the signal of another rank, from a thread; one from outside still counts as the first."""
        self._is_relayed = True
        thread = threading.main_thread().ident
        assert thread is not None
        signal.pthread_kill(thread, number)

    def _waiting_signal(self, end: int) -> WaitingSignal | None:
        try:
            numbers = [n for n in os.read(end, 4096) if n in (signal.SIGINT, signal.SIGTERM)]
        except BlockingIOError:  # none came
            numbers = []
        if numbers:
            self._heard = numbers[0], time.monotonic()
        if self._heard is not None and self._handled_at > self._heard[1] - _LAG_SECONDS:
            self._heard = None
        return self._pending or self._heard

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._handled_at = time.monotonic()
        if self._pending is None:
            self._pending = number, self._handled_at
        if self._is_relayed:
            self._is_relayed = False
        else:
            for each in (signal.SIGINT, signal.SIGTERM):
                signal.signal(each, signal.SIG_DFL)
        self._raise_pending()

    def _raise_pending(self) -> None:
        if self._pending is not None and self._num_deferring == 0 and not self._is_held:
            number, _ = self._pending
            self.clear()
            raise Interrupted(number)


INTERRUPTS = Interrupts()
