"""The inside of a worker: jobs in, one outcome per unit out, under a memory limit."""

from __future__ import annotations

import pickle
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gpg_vl.own_code import describe_error
from gpg_vl.rewards.pool.jobs import Job, Outcome

LOADED = b"L"
OUTCOME = b"O"
FAILED_OUTCOME = b"F"
RETIRED = b"R"
"""First byte of a message to the supervisor; RETIRED goes before another and says that the worker ends after it."""

MAX_MESSAGE_CHARS = 300


def serve_jobs(connection: Connection, memory_mb: int) -> None:
    """Works off ``(payload, first unit, end unit)`` until the other end closes or the worker has grown too large."""
    memory = _MemoryLimit(memory_mb)
    while True:
        try:
            payload, start, stop = pickle.loads(connection.recv_bytes())
        except EOFError:
            return
        run_unit = _load(payload, memory)
        connection.send_bytes(LOADED)
        is_retiring = False
        for unit in range(start, stop):
            outcome = _run(run_unit, unit)
            is_retiring = unit == stop - 1 and memory.is_half_used()
            mark = OUTCOME if outcome.status == "ok" else FAILED_OUTCOME
            connection.send_bytes((RETIRED if is_retiring else b"") + mark + pickle.dumps(outcome))
        if is_retiring:
            return


def _load(payload: bytes, memory: _MemoryLimit) -> Callable[[int], Any]:
    """What makes a unit's value; where the code does not load, each unit raises what the loading raised."""
    try:
        job: Job = pickle.loads(payload)
        with memory.excluding(job.code):
            return job.load()
    except BaseException as error:  # noqa: BLE001  the code is the user's
        failure = error

        def fail(unit: int) -> Any:
            raise failure

        return fail


def _run(run_unit: Callable[[int], Any], unit: int) -> Outcome:
    try:
        return Outcome(run_unit(unit))
    except BaseException as error:  # noqa: BLE001  also exit(): what a task raises is one completion's fault
        return Outcome(None, "error", describe_error(error)[:MAX_MESSAGE_CHARS])


class _MemoryLimit:
    """Bounds the address space that scoring takes on top of what loading the code took."""

    def __init__(self, memory_mb: int):
        self._allowed = memory_mb * 2**20
        self._loaded: set[str] = set()
        self._base = 0

    @contextmanager
    def excluding(self, code: str) -> Iterator[None]:
        """Within, code is loaded: without a limit, the first time in this worker."""
        if code in self._loaded:
            yield
            return
        self._loaded.add(code)
        _set_limit(resource.RLIM_INFINITY)
        try:
            yield
        finally:
            self._base = _address_space()
            _set_limit(self._base + self._allowed)

    def is_half_used(self) -> bool:
        """Whether leaks have come so far that a new worker should take over."""
        return _address_space() - self._base > self._allowed / 2


def _address_space() -> int:
    """Bytes, as RLIMIT_AS counts them."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def _set_limit(num_bytes: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (num_bytes, hard))
