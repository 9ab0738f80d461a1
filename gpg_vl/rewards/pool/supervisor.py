"""The process between a run and its workers: ``python -m gpg_vl.rewards.pool.supervisor FD NUM_WORKERS MEMORY_MB``.

One thread, one loop: hand out spans of units, collect outcomes, kill what exceeds its deadline or its memory. It never
runs a user's code and never waits for a worker. It ends, with everything started below it, as soon as the process that
started it is gone.
"""

from __future__ import annotations

import gc
import os
import pickle
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from gpg_vl.rewards.pool.jobs import Batch, JobBytes, Outcome
from gpg_vl.rewards.pool.messages import GarbledError, Packet
from gpg_vl.rewards.pool.process_trees import (
    adopt_orphans,
    children,
    die_with_parent,
    end_children,
    family,
    is_stopped,
    kill_family,
    memory_bytes,
)
from gpg_vl.rewards.pool.state import Span, Worker
from gpg_vl.rewards.pool.time_limits import GRACE_SECONDS, LOAD_SECONDS, PAUSE_SECONDS, START_SECONDS, PauseWatch
from gpg_vl.rewards.pool.worker import ASSIGNMENT, FAILED_OUTCOME, LOADED, OUTCOME, STARTED, serve_jobs
from gpg_vl.screen import say

IDLE_SECONDS = 0.5
"""How often the supervisor looks whether the process that started it is still there."""

WATCH_SECONDS = 0.05
"""How often running workers are looked at; what a process writes between two looks is a few hundred MB."""

KIT_MEMORY_MB = 256
"""The least that the kit's own tasks may take, whatever the recipe: sympy, which they load late, is a part of that."""

STOPPED_LOOKS = 6
"""Looks in a row that find a worker stopped before it is replaced: a pool that goes on wakes up process by process."""

MAX_LOSSES = 2
"""Workers that may be lost over a unit before the unit is blamed."""


@dataclass(slots=True)
class _Work:
    """The batch in progress."""

    jobs: list[JobBytes]
    outcomes: list[list[bytes | None]]  # as JSON, by job and unit
    queue: deque[Span]
    has_failure: bool = False


@dataclass(slots=True)
class Supervisor:
    client: Connection
    num_workers: int
    memory_mb: int
    parent: int = field(default_factory=os.getppid)
    workers: list[Worker] = field(default_factory=list)
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    pauses: PauseWatch = field(default_factory=PauseWatch)
    watched_at: float = 0.0

    def serve(self) -> None:
        """Works off batches until the other end is gone."""
        adopt_orphans()
        self.selector.register(self.client, selectors.EVENT_READ)
        try:
            while self._is_wanted():
                if self.client.poll(IDLE_SECONDS):
                    batch = pickle.loads(self.client.recv_bytes())
                    self.client.send_bytes(pickle.dumps(self._run(batch)))
        except (EOFError, OSError):
            pass  # the run has ended or was killed
        finally:
            end_children()

    def _is_wanted(self) -> bool:
        return os.getppid() == self.parent

    def _run(self, batch: Batch) -> list[list[bytes | None]]:
        spans = deque(Span(n, 0, job.num_units) for n, job in enumerate(batch.jobs) if job.num_units)
        work = _Work(batch.jobs, [[None] * job.num_units for job in batch.jobs], spans)
        self.pauses.look()
        while work.queue or any(worker.span for worker in self.workers):
            self._hand_out(work)
            self._listen(work)
            self._kill_overdue(work)
            self._watch(work)
            if work.has_failure and batch.stops_on_failure:
                break
            if not self._is_wanted():
                raise EOFError
        for worker in [worker for worker in self.workers if worker.span]:
            self._kill(worker)
        end_children([worker.pid for worker in self.workers])
        return work.outcomes

    def _listen(self, work: _Work) -> None:
        """Reads what the workers sent, and waits at most until the next check."""
        for key, events in self.selector.select(WATCH_SECONDS):
            if key.data is None:  # the client waits for the answer: it can only have closed
                raise EOFError
            if events & selectors.EVENT_WRITE:
                self._send(key.data)
            if events & selectors.EVENT_READ:
                self._take_in(key.data, work)
        pause = self.pauses.seconds_stopped()
        self.pauses.look()
        if pause > PAUSE_SECONDS:
            for worker in self.workers:
                worker.clock.deadline += pause
                worker.looks_stopped = 0

    # --- to the workers ---

    def _hand_out(self, work: _Work) -> None:
        while work.queue and sum(worker.span is not None for worker in self.workers) < self.num_workers:
            span = work.queue.popleft()
            job = work.jobs[span.job]
            worker = self._idle_worker(job.own_file)
            worker.span, worker.is_loading, worker.fork, worker.verdict = span, True, None, None
            worker.start_clock(LOAD_SECONDS)
            payload = pickle.dumps((job.payload, span.start, span.stop))
            worker.unsent = memoryview(Packet(ASSIGNMENT, span.start, worker.pid, payload).to_bytes())
            self._send(worker)

    def _idle_worker(self, own_file: str) -> Worker:
        """One that has the file already, or a new one; the oldest of other files makes room for it."""
        idle = [worker for worker in self.workers if worker.span is None]
        for worker in idle:
            if worker.own_file == own_file:
                return worker
        if len(self.workers) >= 2 * self.num_workers:
            self._kill(idle[0])
        return self._fork(own_file)

    def _send(self, worker: Worker) -> None:
        """As much as its socket takes; the rest when it has room again."""
        with suppress(BlockingIOError, ConnectionError):  # a dead worker shows as the end of its socket
            worker.unsent = worker.unsent[worker.connection.send(worker.unsent) :]
        if bool(worker.unsent) != worker.waits_to_send:
            worker.waits_to_send = bool(worker.unsent)
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.unsent else 0)
            self.selector.modify(worker.connection, events, worker)

    # --- from the workers ---

    def _take_in(self, worker: Worker, work: _Work) -> None:
        """What a worker says, or its end."""
        try:
            data = worker.connection.recv(2**18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._bury(worker, work)
            return
        try:
            for packet in worker.reader.feed(data):
                self._take_packet(worker, packet, work)
        except GarbledError:
            self._end_unit(worker, work, Outcome(None, "error", "something wrote to the pipe of its worker"))

    def _take_packet(self, worker: Worker, packet: Packet, work: _Work) -> None:
        span = worker.span
        if span is None or (packet.pid, packet.unit) != (worker.pid, span.start):
            raise GarbledError("a message of another worker or unit")
        seconds = work.jobs[span.job].unit_seconds
        worker.clock.deadline = time.monotonic() + seconds + (START_SECONDS if worker.own_file else 0.0)
        if packet.kind == LOADED:
            worker.is_loading = False
            worker.loaded_bytes = worker.loaded_bytes or memory_bytes(worker.pid)
        elif packet.kind == STARTED and packet.payload.isdigit():
            worker.fork = int(packet.payload)
            worker.start_clock(seconds)
        elif packet.kind in (OUTCOME, FAILED_OUTCOME):
            is_killed = worker.verdict is not None
            work.outcomes[span.job][span.start] = worker.verdict.to_json() if worker.verdict else packet.payload
            work.has_failure |= is_killed or packet.kind == FAILED_OUTCOME
            self._go_on(worker, span)
        else:
            raise GarbledError("a message of no known kind")

    def _go_on(self, worker: Worker, span: Span) -> None:
        worker.fork = worker.verdict = None
        span.start += 1
        span.num_lost = 0
        if span.start == span.stop:
            worker.span = None
            if (
                not worker.own_file and worker.used_bytes > self._allowed_bytes(worker) / 2
            ):  # it leaks: make room in time
                self._kill(worker)

    def _bury(self, worker: Worker, work: _Work) -> None:
        """Removes a worker that ended: it was killed from outside, it crashed, or a verifier made it exit."""
        if not self._starts_again(worker, work):
            self._end_unit(worker, work, worker.verdict or Outcome(None, "error", "the worker process died"))

    def _starts_again(self, worker: Worker, work: _Work) -> bool:
        """Gives the rest of a lost worker's span to another worker: a neighbour's call may have sent it a signal."""
        span = worker.span
        if span is None or span.num_lost == MAX_LOSSES or worker.verdict:
            return False
        span.num_lost += 1
        work.queue.append(span)
        self._kill(worker)
        return True

    def _kill_overdue(self, work: _Work) -> None:
        if self.pauses.seconds_stopped() > PAUSE_SECONDS:  # just now: the deadlines are moved first
            return
        for worker in [worker for worker in self.workers if worker.span and worker.is_overdue()]:
            assert worker.span is not None
            seconds = LOAD_SECONDS if worker.is_loading else work.jobs[worker.span.job].unit_seconds
            what = "its code did not load" if worker.is_loading else "no answer"
            self._stop_unit(worker, work, Outcome(None, "timeout", f"{what} within {seconds:g} s"))

    def _watch(self, work: _Work) -> None:
        """Replaces workers that a signal has stopped, and ends what has taken more memory than it may."""
        now = time.monotonic()
        if now - self.watched_at < WATCH_SECONDS:
            return
        self.watched_at = now
        for worker in [each for each in self.workers if each.span and self._stays_stopped(each)]:
            if not self._starts_again(worker, work) and worker.is_loading:
                worker.is_loading = False  # its code did not fail: this costs one unit, not all of them
                self._end_unit(worker, work, Outcome(None, "error", "signals stopped its worker again and again"))
        for worker in [each for each in self.workers if each.span and not each.is_loading and not each.verdict]:
            loaded = worker.loaded_bytes or 0
            worker.used_bytes = sum(max(0, memory_bytes(pid) - loaded) for pid in family(worker.pid))
            if worker.used_bytes > self._allowed_bytes(worker):
                text = f"took {worker.used_bytes / 2**20:,.0f} MB; rewards.memory_mb is {self.memory_mb}"
                self._stop_unit(worker, work, Outcome(None, "error", text))

    def _stays_stopped(self, worker: Worker) -> bool:
        """Whether it was found stopped at this look and at the ones before."""
        worker.looks_stopped = worker.looks_stopped + 1 if any(map(is_stopped, worker.pids)) else 0
        return worker.looks_stopped >= STOPPED_LOOKS

    def _allowed_bytes(self, worker: Worker) -> int:
        return 2**20 * (self.memory_mb if worker.own_file else max(self.memory_mb, KIT_MEMORY_MB))

    def _stop_unit(self, worker: Worker, work: _Work, outcome: Outcome) -> None:
        """Kills the fork that the unit runs in; its worker, which has the user's file imported, lives on if it can."""
        if worker.verdict is not None or worker.fork is None or worker.fork not in children(worker.pid):
            self._end_unit(worker, work, worker.verdict or outcome)
            return
        kill_family(worker.fork)
        worker.verdict, worker.clock.deadline = outcome, time.monotonic() + GRACE_SECONDS

    def _end_unit(self, worker: Worker, work: _Work, outcome: Outcome) -> None:
        """Kills a worker over its unit, or over all where its code did not load; the others go to other workers."""
        span, is_loading = worker.span, worker.is_loading
        self._kill(worker)
        if span is None:
            return
        end = span.stop if is_loading else span.start + 1
        for unit in range(span.start, end):
            work.outcomes[span.job][unit] = outcome.to_json()
        work.has_failure = True
        middle = (end + span.stop) // 2  # in two, so that what hangs one after the other does so side by side
        rest = [Span(span.job, end, middle), Span(span.job, middle, span.stop)]
        work.queue.extend(part for part in rest if part.start < part.stop)

    # --- the workers themselves ---

    def _fork(self, own_file: str) -> Worker:
        own = os.getpid()
        try:
            ours, theirs = socket.socketpair()
            pid = os.fork()
        except OSError as error:
            say(f"scoring cannot start a process ({error.strerror}); raise the limits of the shell (ulimit -u, -n, -v)")
            raise
        if pid == 0:
            self._be_worker(own, ours, theirs, own_file)
        theirs.close()
        ours.settimeout(0)  # never waits
        worker = Worker(pid, own_file, ours)
        self.workers.append(worker)
        self.selector.register(ours, selectors.EVENT_READ, worker)
        return worker

    def _be_worker(self, parent: int, ours: socket.socket, theirs: socket.socket, own_file: str) -> None:
        """The child's side of the fork; it never returns."""
        try:
            os.setsid()
            die_with_parent(parent)
            ours.close()
            self.client.close()
            for worker in self.workers:
                worker.connection.close()
            self.selector.close()
            serve_jobs(theirs, own_file)
        finally:
            os._exit(0)

    def _kill(self, worker: Worker) -> None:
        """Ends a worker with all that it started, and leaves no zombie."""
        if worker not in self.workers:
            return
        self.selector.unregister(worker.connection)
        worker.connection.close()
        worker.span = None
        self.workers.remove(worker)
        end_children([each.pid for each in self.workers])


def main(arguments: Sequence[str]) -> None:
    fd, num_workers, memory_mb = (int(word) for word in arguments)
    for notice in (signal.SIGHUP, signal.SIGUSR1):  # for the run, which may still score; a cluster sends them to all
        signal.signal(notice, signal.SIG_IGN)
    gc.collect()
    gc.freeze()  # a worker's collector then copies no page of it
    Supervisor(Connection(fd), num_workers, memory_mb).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
