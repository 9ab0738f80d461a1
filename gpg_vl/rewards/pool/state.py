"""What the supervisor knows of a worker and of what is still to be done."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from gpg_vl.rewards.pool.jobs import Outcome
from gpg_vl.rewards.pool.messages import PacketReader
from gpg_vl.rewards.pool.time_limits import UnitClock


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
    clock: UnitClock = field(default_factory=UnitClock)
    fork: int | None = None  # pid of the fork that runs the unit
    verdict: Outcome | None = None  # on the unit, whose fork was killed; the worker has still to say so
    is_loading: bool = False
    looks_stopped: int = 0  # in a row, that found it stopped by a signal
    loaded_bytes: int | None = None  # what it took when its code was there
    used_bytes: int = 0  # on top of that, with all below it

    @property
    def pids(self) -> list[int]:
        """The worker, and its fork while there is one."""
        return [pid for pid in (self.pid, self.fork) if pid is not None]

    def start_clock(self, seconds: float) -> None:
        self.clock.start(seconds, self.pids)

    def is_overdue(self) -> bool:
        return self.clock.is_overdue(self.pids)
