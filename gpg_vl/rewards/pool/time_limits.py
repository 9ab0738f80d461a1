"""How long a reward may take: the clock of a completion that is scored, and the time that does not count for it.

``rewards.timeout_s`` is wall-clock time. Nothing counts while a user's file is imported (that has a limit of its own),
while the process waits for a processor, or while all processes of the pool were stopped.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from gpg_vl.rewards.pool.process_trees import seconds_in_queue

LOAD_SECONDS = 60.0
"""Longest import of a user's file in a worker; it does not count for the completion that waits for it."""

START_SECONDS = 5.0
"""What a worker may take to fork, on a busy machine: the clock of a unit starts with its fork."""

GRACE_SECONDS = 1.0
"""What a worker may take to say that its fork is gone, before it is killed too."""

PAUSE_SECONDS = 0.3
"""A loop that took longer was stopped from outside: the deadlines move by as much."""


@dataclass(slots=True)
class UnitClock:
    """The deadline of what a worker does."""

    deadline: float = 0.0  # time.monotonic
    waited: dict[int, float] = field(default_factory=dict)
    """Seconds in the run queue that the deadline accounts for, by pid of the worker and its fork."""

    def start(self, seconds: float, pids: Iterable[int]) -> None:
        """Gives it this many seconds from now, not counting those in which its processes wait for a processor."""
        self.deadline, self.waited = time.monotonic() + seconds, _seconds_in_queue(pids)

    def is_overdue(self, pids: Iterable[int]) -> bool:
        """Whether the deadline has passed, after it was moved by the time that its processes waited for a processor."""
        now = time.monotonic()
        if self.deadline > now:
            return False
        waited = _seconds_in_queue(pids)
        since = [seconds - self.waited.get(pid, 0.0) for pid, seconds in waited.items()]
        self.deadline += max(0.0, *since)  # not their sum: they wait at the same time, and a clock must not run back
        self.waited = waited
        return self.deadline <= now


@dataclass(slots=True)
class PauseWatch:
    """Notices that the process itself was stopped, as by SIGSTOP."""

    looked_at: float = 0.0  # time.monotonic
    queued: float = 0.0  # seconds that this process had waited for a processor by then

    def look(self) -> None:
        self.looked_at, self.queued = time.monotonic(), seconds_in_queue(os.getpid())

    def seconds_stopped(self) -> float:
        """Since the last look, without what this process waited for a processor: that moves no deadline by itself."""
        return time.monotonic() - self.looked_at - (seconds_in_queue(os.getpid()) - self.queued)


def _seconds_in_queue(pids: Iterable[int]) -> dict[int, float]:
    return {pid: seconds_in_queue(pid) for pid in pids}
