"""Hanging ranks: which one, at what, and where in the code each rank is then.

The thread that watches a rank keeps its heartbeat in the store that all ranks reach. Two things are a hang, if they
last for the limit:

- a rank makes no progress in work that ought to (``processes.pulse``), does not wait for the others at the end of its
  own work, and no other rank has entered fewer collectives: those that have entered more only wait for it;
- a rank has no heartbeat, since its process is stopped, or a call outside Python lets no thread of it run.

Time counts only while the watching thread runs, so a run that is suspended as a whole does not hang.

A run of one process is not watched, but where it calls code that is not the kit's and may never come back
(``beating_watched``).
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass

import torch
from torch.distributed import Store

from gpg_vl.processes.collectives import count_collectives
from gpg_vl.processes.pulse import PULSE
from gpg_vl.screen import say

PERIOD_SECONDS = 0.5
"""Between two looks."""
LONGEST_PERIOD_SECONDS = 2.0
"""What a period counts at most, where the thread that watches did not run."""
_VERDICT_KEY = "gpg_vl/hang"
_STACKS_SIGNAL = signal.SIGUSR2


@dataclass(frozen=True, slots=True)
class _Heartbeat:
    number: int
    num_collectives: int  # that the rank has entered
    host: str
    process: int


class HangWatch:
    """One rank's part in it. Not the main thread calls it."""

    def __init__(self, store: Store, limit_seconds: float):
        self._store = store
        self._limit = limit_seconds
        self._rank, self._num_ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self._neighbour = (self._rank + 1) % self._num_ranks
        self._looked_at = time.monotonic()
        self._number = 0
        self.has_progressed = False
        """Whether the main thread has gone on since the look before: a beat, or another collective."""
        self._own = _Unchanged()
        self._other = _Unchanged()
        self._send(count_collectives())  # so that a rank that stops at once is missed

    def look(self, longest_seconds: float) -> str | None:
        """Sends this rank's heartbeat and looks at the others. To be called twice a second.

        Args:
            longest_seconds: of those since the last call, that count

        Returns:
            what hangs, once all ranks have to end

        Raises:
            RuntimeError: the store is gone
        """
        now = time.monotonic()
        seconds, self._looked_at = min(now - self._looked_at, longest_seconds), now
        num_collectives = count_collectives()
        self._send(num_collectives)
        beat = PULSE.last
        lasts = self._own.add((beat, num_collectives), seconds)
        self.has_progressed = lasts == 0
        is_late = beat.work is not None and lasts > self._limit and not PULSE.is_waiting
        if is_late and not self._is_ahead(num_collectives):
            self._judge(f"rank {self._rank} hangs: no progress for {self._limit:g} s in {beat.work}")
        self._look_at_neighbour(seconds)
        return self._store.get(_VERDICT_KEY).decode() if self._store.check([_VERDICT_KEY]) else None

    def _send(self, num_collectives: int) -> None:
        self._number += 1
        mine = _Heartbeat(self._number, num_collectives, socket.gethostname(), os.getpid())
        self._store.set(_key(self._rank), json.dumps(asdict(mine)))

    def _is_ahead(self, num_collectives: int) -> bool:
        """Whether a rank has entered fewer collectives than this one, which then waits for it."""
        keys = [_key(rank) for rank in range(self._num_ranks)]
        if not self._store.check(keys):  # one is at the end of its work
            return True
        return any(_read(each).num_collectives < num_collectives for each in self._store.multi_get(keys))

    def close(self) -> None:
        """No heartbeat is expected from here on. Where the ranks have parted, all of them end, and none looks."""
        if torch.distributed.is_initialized():
            self._store.delete_key(_key(self._rank))

    def _look_at_neighbour(self, seconds: float) -> None:
        """Each rank is looked at by the one before it, so that the work does not grow with their number."""
        theirs = self._heartbeat(self._neighbour)
        if theirs is None or self._other.add(theirs.number, seconds) <= self._limit:
            return
        where = f"process {theirs.process} on {theirs.host}"
        if self._judge(f"rank {self._neighbour} hangs: no thread of it has run for {self._limit:g} s ({where})"):
            _ask_for_stacks(theirs)

    def _heartbeat(self, rank: int) -> _Heartbeat | None:
        """The last one; None before the first, and at the end of its work."""
        return _read(self._store.get(_key(rank))) if self._store.check([_key(rank)]) else None

    def _judge(self, verdict: str) -> bool:
        """Tells all ranks, and the user; whether this one is the first."""
        is_first = self._store.compare_set(_VERDICT_KEY, "", verdict).decode() == verdict
        if is_first:
            say(f"{verdict}; all ranks end; the same command resumes from what is saved")
        return is_first


class _Unchanged:
    """How long something has stayed the same."""

    def __init__(self) -> None:
        self._what: object = None
        self._seconds = 0.0

    def add(self, what: object, seconds: float) -> float:
        self._seconds = self._seconds + seconds if what == self._what else 0.0
        self._what = what
        return self._seconds


@contextmanager
def beating_watched(work: str) -> Iterator[None]:
    """As ``PULSE.beating``. Where this process is the only one, a thread ends it if it hangs inside."""
    with PULSE.beating(work):
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # where all of a rank's work is watched
            yield
            return
        is_over = threading.Event()
        thread = threading.Thread(target=_watch_alone, args=(is_over,), daemon=True, name="hangs")
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()


def _watch_alone(is_over: threading.Event) -> None:
    beats, looked_at = _Unchanged(), time.monotonic()
    while not is_over.wait(PERIOD_SECONDS):
        now = time.monotonic()
        seconds, looked_at = min(now - looked_at, LONGEST_PERIOD_SECONDS), now
        if beats.add(PULSE.last, seconds) > PULSE.hang_seconds:
            say_stacks(f"no progress for {PULSE.hang_seconds:g} s in {PULSE.last.work}")
            say("the same command resumes from what is saved")
            os._exit(1)


@contextmanager
def stacks_on_signal() -> Iterator[None]:
    """Inside, SIGUSR2 writes the stacks of all threads to standard error, also while none of them can run.

    Unless the caller uses that signal.
    """
    is_free = signal.getsignal(_STACKS_SIGNAL) == signal.SIG_DFL
    if is_free:
        faulthandler.register(_STACKS_SIGNAL, file=2)
    try:
        yield
    finally:
        if is_free:
            faulthandler.unregister(_STACKS_SIGNAL)


def say_stacks(cause: str) -> None:
    """Prints the stack of each thread of this process but the one that calls, the main thread first."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    main = threading.main_thread().ident
    frames = {ident: frame for ident, frame in sys._current_frames().items() if ident != threading.get_ident()}
    who = f"rank {os.environ['RANK']}" if "RANK" in os.environ else "this process"
    parts = [f"{who} ends: {cause}; its stacks, the last call at the end of each:"]
    for ident in sorted(frames, key=lambda each: each != main):
        stack = "".join(traceback.format_stack(frames[ident])).rstrip()
        parts.append(f"{names.get(ident, 'thread of a library')}:\n{stack}")
    say("\n".join(parts))  # in one piece: other ranks write too


def _key(rank: int) -> str:
    return f"gpg_vl/heartbeat/{rank}"


def _read(value: bytes) -> _Heartbeat:
    return _Heartbeat(**json.loads(value))


def _ask_for_stacks(theirs: _Heartbeat) -> None:
    if theirs.host == socket.gethostname():
        with suppress(ProcessLookupError, PermissionError):
            os.kill(theirs.process, _STACKS_SIGNAL)
