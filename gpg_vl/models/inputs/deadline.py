"""Deadlines for what a model folder holds and this process runs: a template that may loop, a pattern that may be slow.

Seconds are those of a processor, so that neither a busy machine nor a stopped process counts.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

_PERIOD_SECONDS = 0.1
_Result = TypeVar("_Result")


class Deadline:
    """Interrupts what any thread runs ``within`` it, once ``seconds`` have passed.

    One thread watches all others, so that a block costs microseconds. Only Python code can be interrupted, as a
    compiled template is.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._ends: dict[int, tuple[int, float]] = {}  # by thread: its clock, and when that ends the block
        self._lock = threading.Lock()
        self._is_watched = False

    @contextmanager
    def within(self) -> Iterator[None]:
        """
        Raises:
            TimeoutError: the block took too long
        """
        thread = threading.get_ident()
        clock = time.pthread_getcpuclockid(thread)
        with self._lock:
            self._ends[thread] = clock, time.clock_gettime(clock) + self.seconds
            if not self._is_watched:
                self._is_watched = True
                threading.Thread(target=self._watch, daemon=True, name="deadline").start()
        is_under_way = True
        try:
            yield
        except TimeoutError:
            is_under_way = False
            raise
        finally:
            with self._lock:
                has_passed = self._ends.pop(thread, None) is None
            while has_passed and is_under_way:  # it must not strike after the block
                time.sleep(0)

    def _watch(self) -> None:
        while True:
            time.sleep(_PERIOD_SECONDS)
            with self._lock:
                late = [thread for thread, (clock, end) in self._ends.items() if time.clock_gettime(clock) > end]
                for thread in late:
                    del self._ends[thread]
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(TimeoutError))
                self._is_watched = bool(self._ends)
                if not self._is_watched:
                    return


def run_within(seconds: float, work: Callable[[], _Result]) -> _Result:
    """The result of ``work``, which runs in another thread: for long calls outside Python, which let others run.

    Raises:
        TimeoutError: it took too long; its thread goes on until the process ends
        RuntimeError: it failed with something that is no ``Exception``, as Rust's panics are
    """
    helper = _idle.pop() if _idle else _Helper()
    try:
        found, error = helper.call(work, seconds)
    except BaseException:
        helper.leave()
        raise
    _idle.append(helper)
    if error is None:
        return found  # type: ignore[no-any-return]
    if isinstance(error, Exception):
        raise error
    raise RuntimeError(str(error)) from error


class _Helper:
    """A thread that works off one call after another; starting one for each call would take longer than most calls."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._outcomes: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        thread = threading.Thread(target=self._serve, daemon=True, name="call within a deadline")
        thread.start()
        self._clock = time.pthread_getcpuclockid(thread.ident or 0)

    def call(self, work: Callable[[], Any], seconds: float) -> tuple[Any, BaseException | None]:
        """What it returned, or raised."""
        end = time.clock_gettime(self._clock) + seconds
        self._calls.put(work)
        while True:
            try:
                return self._outcomes.get(timeout=_PERIOD_SECONDS)
            except Empty:
                if time.clock_gettime(self._clock) > end:
                    raise TimeoutError from None

    def leave(self) -> None:
        """Its thread ends, once its call does."""
        self._calls.put(None)

    def _serve(self) -> None:
        while (work := self._calls.get()) is not None:
            outcome: tuple[Any, BaseException | None]
            try:
                outcome = work(), None
            except BaseException as error:  # noqa: BLE001  raised in the thread that waits
                outcome = None, error
            self._outcomes.put(outcome)
            del work, outcome


_idle: list[_Helper] = []
os.register_at_fork(after_in_child=_idle.clear)  # a fork has no other threads
