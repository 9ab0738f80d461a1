"""What this process is doing, for the thread that watches whether it goes on (``processes.hangs``)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

HANG_SECONDS = 600.0
"""As ``run.hang_timeout_s``, for commands that read no recipe of a run."""


@dataclass(frozen=True, slots=True)
class Beat:
    work: str | None  # what is being done; None: work of which nobody knows how long it takes
    number: int


class Pulse:
    """Where the main thread is. One instance, ``PULSE``: a process has one main thread."""

    def __init__(self) -> None:
        self.last = Beat(None, 0)
        self.is_waiting = False
        """Whether it waits for the other ranks, however long they take."""
        self.hang_seconds = HANG_SECONDS
        """Without a beat, after which the process hangs."""

    @contextmanager
    def hanging_after(self, seconds: float) -> Iterator[None]:
        """Inside, that is ``hang_seconds``."""
        before, self.hang_seconds = self.hang_seconds, seconds
        try:
            yield
        finally:
            self.hang_seconds = before

    @contextmanager
    def beating(self, work: str) -> Iterator[None]:
        """Inside, there is a beat at least every few minutes, or the process hangs."""
        outer = self.last.work
        self.beat(work)
        try:
            yield
        finally:
            self.last = Beat(outer, self.last.number + 1)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside, other ranks are waited for, which may do what this one has done already."""
        self.is_waiting = True
        try:
            yield
        finally:
            self.is_waiting = False

    def beat(self, work: str | None = None) -> None:
        """Inside of ``beating``: the work goes on; or, where it is named, the next begins."""
        self.last = Beat(work or self.last.work, self.last.number + 1)


PULSE = Pulse()
