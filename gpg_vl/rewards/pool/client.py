"""The near end of the pool: starts the supervisor, sends batches, reads outcomes."""

from __future__ import annotations

import logging
import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType

from gpg_vl.processes.pulse import PULSE
from gpg_vl.rewards.pool.jobs import Batch, Job, JobBytes, Outcome, read_outcome
from gpg_vl.rewards.pool.time_limits import LOAD_SECONDS, START_SECONDS

_log = logging.getLogger(__name__)

MAX_WORKERS = 8
"""Verifiers take microseconds: more processes than this only cost memory."""

_BEAT_SECONDS = 5.0

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""A process with threads must not fork; numpy starts none then."""


class PoolError(RuntimeError, ValueError):
    """The processes of the pool cannot be kept up."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A batch that the supervisor has, or will have."""

    jobs: Sequence[Job]
    batch: bytes  # as it is sent
    longest_s: float  # that it takes; a supervisor without an answer for longer hangs


class ScoringPool:
    """Runs jobs in killable processes; they start with ``start`` or the first batch and live until ``close``.

    Args:
        timeout_s: limit of one completion, or of one call of a reward function, in seconds of wall-clock time; the
            time that its process waits for a processor does not count
        memory_mb: resident memory that scoring may take in a worker and all below it, on top of its code; mapped files
            do not count
        num_workers: default: this process's share of the cores, at most ``MAX_WORKERS``
    """

    def __init__(self, timeout_s: float, memory_mb: int, num_workers: int | None = None):
        self._timeout_s = timeout_s
        self._memory_mb = memory_mb
        self._num_workers = num_workers or _share_of_cores()
        self.process: subprocess.Popen[bytes] | None = None  # the supervisor
        self._connection: Connection | None = None
        self._asked: _Asked | None = None  # whose outcomes have not been taken

    def start(self) -> None:
        """Starts the supervisor, without waiting until it is up.

        Raises:
            PoolError: the limits of the shell allow no further process or file
        """
        if self._connection is not None:
            return
        try:
            self._start()
        except OSError as error:
            raise PoolError(
                f"scoring cannot start a process ({error.strerror}); raise the limits of the shell (ulimit -u, -n, -v)"
            ) from error

    def _start(self) -> None:
        near, far = socket.socketpair()
        with far:
            module = ["-m", "gpg_vl.rewards.pool.supervisor"]
            words = [str(far.fileno()), str(self._num_workers), str(self._memory_mb)]
            self.process = subprocess.Popen(
                [sys.executable, "-P", *module, *words],
                pass_fds=[far.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what a verifier prints must not end up in the output of a command
                env={**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join(sys.path)},
                start_new_session=True,  # Ctrl-C is for the run, which then closes the pool
            )
        self._connection = Connection(near.detach())

    def run(
        self, jobs: Sequence[Job], stops_on_failure: bool = False, timeout_s: float | None = None
    ) -> list[list[Outcome | None]]:
        """An outcome for each unit of each job, in order.

        With ``stops_on_failure`` the first timeout or error ends the batch: None stands for what was not done then.

        Args:
            timeout_s: limit for these jobs; None takes the pool's

        Raises:
            PoolError: the pool's own process ended, and so did its replacement
        """
        self.begin(jobs, stops_on_failure, timeout_s)
        return self.take()

    def begin(self, jobs: Sequence[Job], stops_on_failure: bool = False, timeout_s: float | None = None) -> None:
        """Sends jobs without waiting for their outcomes, which ``take`` has; one batch at a time. Args: see ``run``."""
        assert self._asked is None, "the outcomes of a batch were not taken"
        seconds = self._timeout_s if timeout_s is None else timeout_s
        sent = [JobBytes(pickle.dumps(job), job.own_file, job.num_units, seconds) for job in jobs]
        batch = pickle.dumps(Batch(sent, stops_on_failure))
        longest_s = 2 * (LOAD_SECONDS + (seconds + START_SECONDS) * sum(job.num_units for job in jobs))
        self._send(batch)
        self._asked = _Asked(jobs, batch, longest_s)

    def is_answered(self) -> bool:
        """Whether ``take`` would find the outcomes there, or no supervisor."""
        return self._connection is None or self._connection.poll()

    def take(self) -> list[list[Outcome | None]]:
        """The outcomes of the jobs that were begun, as ``run`` has them."""
        assert self._asked is not None
        asked, self._asked = self._asked, None
        try:
            answer = self._read(asked.longest_s)
        except (EOFError, OSError):
            _log.warning("the process that supervises scoring ended; it is started once more")
            answer = self._ask_again(asked)
        return [
            [None if each is None else read_outcome(job, each) for each in outcomes]
            for job, outcomes in zip(asked.jobs, answer, strict=True)
        ]

    def _send(self, batch: bytes) -> None:
        """A supervisor that has ended shows when its answer is read."""
        self.start()
        assert self._connection is not None
        try:
            self._connection.send_bytes(batch)
        except OSError:
            self.close()
        except BaseException:  # an interrupt: half a batch cannot be used
            self.close()
            raise

    def _read(self, longest_s: float) -> list[list[bytes | None]]:
        """Waits for the outcomes of the batch that was sent, as JSON.

        Raises:
            EOFError, OSError: there is no supervisor any more
        """
        if self._connection is None:
            raise EOFError
        try:
            _wait(self._connection, longest_s)
            answer: list[list[bytes | None]] = pickle.loads(self._connection.recv_bytes())
        except BaseException:  # also an interrupt: the answer to this batch would be taken for that to the next
            self.close()
            raise
        return answer

    def _ask_again(self, asked: _Asked) -> list[list[bytes | None]]:
        try:
            self._send(asked.batch)
            return self._read(asked.longest_s)
        except (EOFError, OSError) as error:
            raise PoolError("the process that supervises scoring ended twice; its output is above") from error

    def close(self) -> None:
        """Ends every process of the pool, whatever was begun. It can be used again; it then starts new ones."""
        self._asked = None
        if self._connection is None or self.process is None:
            return
        self._connection.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._connection = self.process = None

    def __enter__(self) -> ScoringPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _wait(connection: Connection, longest_s: float) -> None:
    """Until there is an answer or no other end; after the longest time without a beat (``processes.pulse``)."""
    end = time.monotonic() + longest_s
    with PULSE.beating("scoring"):
        while not connection.poll(_BEAT_SECONDS):
            if time.monotonic() < end:
                PULSE.beat()


def _share_of_cores() -> int:
    num_cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(MAX_WORKERS, num_cores))
