"""The process between a run and its workers: ``python -m gpg_vl.rewards.pool.supervisor FD NUM_WORKERS MEMORY_MB``.

One thread, one loop: hand out spans of units, take in outcomes, kill what is past its deadline. It never runs a user's
code itself. It ends, and its workers with it, as soon as the process that started it is gone.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import selectors
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

from gpg_vl.rewards.pool.jobs import Batch, JobBytes, Outcome
from gpg_vl.rewards.pool.worker import FAILED_OUTCOME, LOADED, RETIRED, serve_jobs

LOAD_SECONDS = 60.0
"""Longest import of a user's file in a worker; it does not count for the completion that waits for it."""

WATCH_SECONDS = 0.5
"""How often the supervisor looks whether the process that started it is still there."""

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class _Span:
    """Units ``start`` to ``stop`` of a job, still to be done."""

    job: int
    start: int
    stop: int
    num_lost: int = 0  # workers that ended before they had loaded its code


@dataclass(slots=True)
class _Worker:
    pid: int
    connection: Connection
    span: _Span | None = None
    deadline: float = 0.0  # time.monotonic
    waited: float = 0.0  # seconds in the run queue, since its start, that the deadline accounts for
    is_loading: bool = False
    is_retired: bool = False


@dataclass(slots=True)
class _Work:
    """The batch in progress."""

    jobs: list[JobBytes]
    outcomes: list[list[bytes | None]]  # pickled, by job and unit
    queue: deque[_Span]
    has_failure: bool = False


@dataclass(slots=True)
class Supervisor:
    client: Connection
    num_workers: int
    memory_mb: int
    parent: int = field(default_factory=os.getppid)
    workers: list[_Worker] = field(default_factory=list)
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)

    def serve(self) -> None:
        """Works off batches until the other end is gone."""
        self.selector.register(self.client, selectors.EVENT_READ)
        try:
            while self._is_wanted():
                if self.client.poll(WATCH_SECONDS):
                    batch = pickle.loads(self.client.recv_bytes())
                    self.client.send_bytes(pickle.dumps(self._run(batch)))
        except (EOFError, OSError):
            pass  # the run has ended or was killed
        finally:
            for worker in list(self.workers):
                self._kill(worker)

    def _is_wanted(self) -> bool:
        return os.getppid() == self.parent

    def _run(self, batch: Batch) -> list[list[bytes | None]]:
        spans = deque(_Span(n, 0, job.num_units) for n, job in enumerate(batch.jobs) if job.num_units)
        work = _Work(batch.jobs, [[None] * job.num_units for job in batch.jobs], spans)
        while work.queue or any(worker.span for worker in self.workers):
            self._hand_out(work)
            for key, _ in self.selector.select(self._seconds_to_deadline()):
                if key.data is None:  # the client waits for the answer: it can only have closed
                    raise EOFError
                self._take_in(key.data, work)
            self._kill_overdue(work)
            if work.has_failure and batch.stops_on_failure:
                break
            if not self._is_wanted():
                raise EOFError
        for worker in [worker for worker in self.workers if worker.span]:
            self._kill(worker)
        return work.outcomes

    def _seconds_to_deadline(self) -> float:
        deadlines = [worker.deadline for worker in self.workers if worker.span]
        return max(0.0, min(WATCH_SECONDS, min(deadlines, default=0.0) - time.monotonic()))

    def _hand_out(self, work: _Work) -> None:
        while work.queue:
            worker = next((worker for worker in self.workers if worker.span is None), None)
            if worker is None:
                if len(self.workers) == self.num_workers:
                    return
                worker = self._fork()
            span = work.queue.popleft()
            worker.span, worker.is_loading = span, True
            worker.deadline, worker.waited = time.monotonic() + LOAD_SECONDS, _seconds_in_queue(worker.pid)
            with suppress(OSError):  # it has died: seen as the end of its pipe, in its turn
                worker.connection.send_bytes(pickle.dumps((work.jobs[span.job].payload, span.start, span.stop)))

    def _take_in(self, worker: _Worker, work: _Work) -> None:
        """One message of a worker, or its end."""
        try:
            message = worker.connection.recv_bytes()
        except (EOFError, OSError):
            self._bury(worker, work)
            return
        assert worker.span is not None, "a worker without a span sends nothing"
        span = worker.span
        job = work.jobs[span.job]
        worker.deadline = time.monotonic() + job.unit_seconds
        if message == LOADED:
            worker.is_loading = False
            return
        if message.startswith(RETIRED):
            worker.is_retired = True
            message = message.removeprefix(RETIRED)
        work.outcomes[span.job][span.start] = message[1:]
        work.has_failure |= message.startswith(FAILED_OUTCOME)
        span.start += 1
        if span.start == span.stop:
            worker.span = None
            if worker.is_retired:
                self._kill(worker)

    def _bury(self, worker: _Worker, work: _Work) -> None:
        """Takes leave of a worker that ended by itself: killed from outside, crashed, or made to exit by a verifier."""
        span = worker.span
        self._kill(worker)
        if span is None:
            return
        if worker.is_loading and span.num_lost == 0:  # perhaps it was gone before it got the span
            span.num_lost += 1
            work.queue.append(span)
        else:
            self._give_up(worker, span, work, Outcome(None, "error", "the worker process died"))

    def _kill_overdue(self, work: _Work) -> None:
        for worker in [worker for worker in self.workers if worker.span and _is_overdue(worker)]:
            span = worker.span
            assert span is not None
            self._kill(worker)
            seconds = LOAD_SECONDS if worker.is_loading else work.jobs[span.job].unit_seconds
            what = "its code did not load" if worker.is_loading else "no answer"
            self._give_up(worker, span, work, Outcome(None, "timeout", f"{what} within {seconds:g} s"))

    def _give_up(self, worker: _Worker, span: _Span, work: _Work, outcome: Outcome) -> None:
        """Ends the unit that the worker died on, or all where the code did not load; the others go to other workers."""
        end = span.stop if worker.is_loading else span.start + 1
        for unit in range(span.start, end):
            work.outcomes[span.job][unit] = pickle.dumps(outcome)
        work.has_failure = True
        middle = (end + span.stop) // 2  # in two, so that what hangs one after the other does so side by side
        rest = [_Span(span.job, end, middle), _Span(span.job, middle, span.stop)]
        work.queue.extend(part for part in rest if part.start < part.stop)

    def _fork(self) -> _Worker:
        ours, theirs = Pipe()
        pid = os.fork()
        if pid == 0:
            self._be_worker(theirs)
        theirs.close()
        worker = _Worker(pid, ours)
        self.workers.append(worker)
        self.selector.register(ours, selectors.EVENT_READ, worker)
        return worker

    def _be_worker(self, connection: Connection) -> None:
        """The child's side of the fork; it never returns."""
        try:
            os.setsid()  # what a verifier starts can be killed with it
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            self.client.close()
            for worker in self.workers:
                worker.connection.close()
            self.selector.close()
            serve_jobs(connection, self.memory_mb)
        finally:
            os._exit(0)

    def _kill(self, worker: _Worker) -> None:
        """Ends a worker with all that it started, and leaves no zombie."""
        with suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGKILL)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(worker.pid, signal.SIGKILL)
        os.waitpid(worker.pid, 0)
        self.selector.unregister(worker.connection)
        worker.connection.close()
        worker.span = None
        self.workers.remove(worker)


def _is_overdue(worker: _Worker) -> bool:
    """Whether the deadline has passed, after it was moved by the time that the worker waited for a processor."""
    now = time.monotonic()
    if worker.deadline > now:
        return False
    waited = _seconds_in_queue(worker.pid)
    worker.deadline, worker.waited = worker.deadline + waited - worker.waited, waited
    return worker.deadline <= now


def _seconds_in_queue(pid: int) -> float:
    """How long a process has waited for a processor since its start; 0 where the kernel does not say."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def main(arguments: Sequence[str]) -> None:
    fd, num_workers, memory_mb = (int(word) for word in arguments)
    Supervisor(Connection(fd), num_workers, memory_mb).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
