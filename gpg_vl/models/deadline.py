"""Deadlines for what a model folder holds and this process runs: a template that may loop, a pattern that may be slow.

Seconds are those of a processor, so that neither a busy machine nor a stopped process counts.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

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
    """The result of ``work``, which runs in a thread of its own: for long calls outside Python, which let others run.

    Raises:
        TimeoutError: it took too long; the thread goes on until the process ends
        RuntimeError: it failed with something that is no ``Exception``, as Rust's panics are
    """
    call = _Call(work)
    call.start()
    call.join(_PERIOD_SECONDS)
    while call.is_alive():
        if call.seconds() > seconds:
            raise TimeoutError
        call.join(_PERIOD_SECONDS)
    return call.result()


class _Call(threading.Thread, Generic[_Result]):
    def __init__(self, work: Callable[[], _Result]):
        super().__init__(daemon=True)
        self._work = work
        self._clock: int | None = None
        self._found: list[_Result] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        self._clock = time.pthread_getcpuclockid(threading.get_ident())
        try:
            self._found.append(self._work())
        except BaseException as error:  # noqa: BLE001  raised in the thread that waits
            self._error = error

    def seconds(self) -> float:
        """Of a processor, so far; 0 where the thread has just ended."""
        try:
            return 0.0 if self._clock is None else time.clock_gettime(self._clock)
        except OSError:
            return 0.0

    def result(self) -> _Result:
        if self._error is not None:
            if isinstance(self._error, Exception):
                raise self._error
            raise RuntimeError(str(self._error)) from self._error
        return self._found[0]
