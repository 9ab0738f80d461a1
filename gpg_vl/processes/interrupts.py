"""Signals that ask a run to stop, as an exception that is never raised in the middle of an optimizer step or a save.

With several ranks, each holds a signal back, except during work that it does on its own (``ranks.run_together``): there
all ranks learn of it and stop at the same point.
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
"""A signal that was not handled yet: its number, and when it arrived by ``time.monotonic``."""


class Interrupted(BaseException):
    """The run was asked to stop; ``exit_code`` is 128 plus the signal's number.

    Not an ``Exception``: code that catches errors of faulty rows or tasks must let it pass.
    """

    def __init__(self, signal_number: int):
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number


INSISTING = (signal.SIGINT, signal.SIGTERM)
"""The second of these ends the process at once."""

WARNINGS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU)
"""A terminal that closed, a cluster's notice that time runs out, a limit on processor time. A repeated one is ignored,
since they come in numbers and what ends the process follows."""

_LAG_SECONDS = 2.0  # maximum, from a signal until the listening thread notices it


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


class Interrupts:
    """How a process handles them. One instance, ``INTERRUPTS``: a signal has one handler per process."""

    def __init__(self) -> None:
        self._num_deferring = 0
        self._is_held = False
        self._is_relayed = False  # the next signal comes from another rank
        self._pending: WaitingSignal | None = None
        self._heard: WaitingSignal | None = None  # seen by a listening thread, perhaps before the main thread could
        self._handled_at = 0.0  # when the main thread last handled a signal

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Inside, the first signal raises ``Interrupted``; a second SIGINT or SIGTERM ends the process at once.

        What the caller has ignored stays ignored, as ``nohup`` does with SIGHUP. Outside the main thread, which alone
        can handle signals, they mean what the program makes of them.
        """
        if not _is_main_thread():
            yield
            return
        self.clear()
        wanted = [each for each in (*INSISTING, *WARNINGS) if signal.getsignal(each) != signal.SIG_IGN]
        previous = {number: signal.signal(number, self._handle) for number in wanted}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            self.clear()

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a signal waits until the end of the block."""
        self._num_deferring += 1
        try:
            yield
        finally:
            self._num_deferring -= 1
        self._raise_pending()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, a signal waits for ``admitted``; also at the end of the block, where ranks may not be in step."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Inside, a held-back signal raises at once, except in a block that defers it."""
        was_held, self._is_held = self._is_held, False
        try:
            self._raise_pending()
            yield
        finally:
            self._is_held = was_held

    @contextmanager
    def listening(self) -> Iterator[Callable[[], WaitingSignal | None]]:
        """Yields a function that tells another thread about a waiting signal; call it about every second.

        It also sees signals that the main thread has not handled yet because it is in a long call outside Python, such
        as a collective.

        Raises:
            ValueError: this is not the main thread
        """
        if not _is_main_thread():
            raise ValueError("several ranks stop together on a signal; train or evaluate in the main thread of each")
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
        """Whether this rank is doing work of its own that no signal may cut short, such as writing a checkpoint."""
        return self._num_deferring > 0 and not self._is_held

    def clear(self) -> None:
        """Forgets the signal, once all ranks have handled it."""
        self._pending = None

    def relay(self, number: int) -> None:
        """Passes on another rank's signal, from a thread; a later one from outside still counts as the first."""
        self._is_relayed = True
        thread = threading.main_thread().ident
        assert thread is not None
        signal.pthread_kill(thread, number)

    def _waiting_signal(self, end: int) -> WaitingSignal | None:
        try:
            numbers = [n for n in os.read(end, 4096) if n in (*INSISTING, *WARNINGS)]
        except BlockingIOError:  # no signal came
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
        elif number in INSISTING:
            for each in INSISTING:
                signal.signal(each, signal.SIG_DFL)
        self._raise_pending()

    def _raise_pending(self) -> None:
        if self._pending is not None and self._num_deferring == 0 and not self._is_held:
            number, _ = self._pending
            self.clear()
            raise Interrupted(number)


INTERRUPTS = Interrupts()
