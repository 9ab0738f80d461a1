"""A deadline for code of a model folder that runs in this process: its chat template, a program that may loop."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_PERIOD_SECONDS = 0.1


class Deadline:
    """Interrupts what any thread runs ``within`` it, once ``seconds`` have passed.

    One thread watches all others, so that a block costs microseconds. Only Python code can be interrupted, as a
    compiled template is.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._ends: dict[int, float] = {}  # by thread, time.monotonic
        self._lock = threading.Lock()
        self._is_watched = False

    @contextmanager
    def within(self) -> Iterator[None]:
        """
        Raises:
            TimeoutError: the block took too long
        """
        thread = threading.get_ident()
        with self._lock:
            self._ends[thread] = time.monotonic() + self.seconds
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
                now = time.monotonic()
                for thread in [thread for thread, end in self._ends.items() if end < now]:
                    del self._ends[thread]
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(TimeoutError))
                self._is_watched = bool(self._ends)
                if not self._is_watched:
                    return
