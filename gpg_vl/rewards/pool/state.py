"""What the supervisor knows of a worker and of what is still to be done."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, field

from gpg_vl.rewards.pool.jobs import Outcome
from gpg_vl.rewards.pool.messages import PacketReader
from gpg_vl.rewards.pool.process_trees import seconds_in_queue


@dataclass(slots=True)
class Span:
    """Units ``start`` to ``stop`` of a job, still to be done."""

    job: int
    start: int
    stop: int
    num_lost: int = 0  # workers that were lost over its first unit


@dataclass(slots=True, eq=False)
class Worker:
    pid: int
    own_file: str  # the user's file that it runs, "" for the kit's own code
    connection: socket.socket
    reader: PacketReader = field(default_factory=PacketReader)
    unsent: memoryview = memoryview(b"")  # noqa: RUF009  immutable
    waits_to_send: bool = False
    span: Span | None = None
    deadline: float = 0.0  # time.monotonic
    fork: int | None = None  # pid of the fork that runs the unit
    verdict: Outcome | None = None  # on the unit, whose fork was killed; the worker has still to say so
    waited: dict[int, float] = field(default_factory=dict)
    """Seconds in the run queue that the deadline accounts for, by pid of the worker and its fork."""
    is_loading: bool = False
    loaded_bytes: int | None = None  # what it took when its code was there
    used_bytes: int = 0  # on top of that, with all below it

    def start_clock(self, seconds: float) -> None:
        """Gives it this many seconds from now, not counting those in which its process waits for a processor."""
        self.deadline, self.waited = time.monotonic() + seconds, self._seconds_in_queue()

    def is_overdue(self) -> bool:
        """Whether the deadline has passed, after it was moved by the time that its processes waited for a processor."""
        now = time.monotonic()
        if self.deadline > now:
            return False
        waited = self._seconds_in_queue()
        since = [seconds - self.waited.get(pid, 0.0) for pid, seconds in waited.items()]
        self.deadline += max(0.0, *since)  # not their sum: they wait at the same time, and a clock must not run back
        self.waited = waited
        return self.deadline <= now

    def _seconds_in_queue(self) -> dict[int, float]:
        return {pid: seconds_in_queue(pid) for pid in (self.pid, self.fork) if pid is not None}
