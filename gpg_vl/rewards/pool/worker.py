"""The code that a worker runs: jobs in, one outcome per unit out.

The kit's own tasks run in the worker itself. A user's file is imported once by a worker that does nothing else, and
every unit of it runs in a fork of that worker: what a call does to its process, whatever it is, ends with that process.
"""

from __future__ import annotations

import ast
import fcntl
import gc
import importlib
import os
import pickle
import resource
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from gpg_vl.rewards.pool.jobs import Job, Outcome
from gpg_vl.rewards.pool.messages import GarbledError, Packet, PacketReader
from gpg_vl.rewards.pool.process_trees import adopt_orphans, children, die_with_parent, end_children
from gpg_vl.tasks.base import Task
from gpg_vl.user_code import CodeMistake, describe_failure, run_file

ASSIGNMENT = b"A"
"""To a worker; the payload is a pickled ``(payload of the job, first unit, end unit)``."""

LOADED, STARTED, OUTCOME, FAILED_OUTCOME = b"L", b"S", b"O", b"F"
"""From a worker. The payload of STARTED is the pid of the fork that the unit runs in."""

MAX_MESSAGE_CHARS = 300
_POLL_MS = 50
_GRACE_S = 0.2
"""From the end of a pipe to that of its process."""

_exit, _getpid, _write = os._exit, os.getpid, os.write  # bound here: a user's code may replace those of the module


def serve_jobs(connection: socket.socket, own_file: str) -> None:
    """Works off assignments until the other end closes.

    Args:
        own_file: the user's file that all its jobs are of; "" for the kit's own
    """
    pid = os.getpid()
    serve = _serve_kit if not own_file else partial(_serve_own, _OwnFile(own_file))
    for unit, payload, stop in _assignments(connection):
        for packet in serve(payload, range(unit, stop), connection):
            if _getpid() != pid:  # a fork that came back
                _exit(0)
            connection.sendall(packet.to_bytes())


def _assignments(connection: socket.socket) -> Iterator[tuple[int, bytes, int]]:
    reader = PacketReader(max_payload=2**32 - 1)
    while data := connection.recv(2**20):
        for packet in reader.feed(data):
            payload, start, stop = pickle.loads(packet.payload)
            yield start, payload, stop


def _serve_kit(payload: bytes, units: Sequence[int], connection: socket.socket) -> Iterator[Packet]:
    pid = os.getpid()
    run_unit = _load(payload)
    yield Packet(LOADED, units[0], pid)
    for unit in units:
        yield _packet(_run(run_unit, unit, ""), unit, pid)


def _serve_own(own: _OwnFile, payload: bytes, units: Sequence[int], connection: socket.socket) -> Iterator[Packet]:
    pid = os.getpid()
    own.load()
    yield Packet(LOADED, units[0], pid)
    for unit in units:
        if own.failure is not None:
            yield _packet(own.failure, unit, pid)
            continue
        try:
            fork = _Fork(own, payload, unit, connection)
        except OSError as error:  # the pool's lack and not the completion's
            text = f"no process can be started ({error.strerror}); raise the limits of the shell (ulimit -u, -n, -v)"
            yield _packet(Outcome(None, "error", text, is_mistake=True), unit, pid)
            continue
        yield Packet(STARTED, unit, pid, str(fork.pid).encode())
        kind, outcome = fork.outcome()
        yield Packet(kind, unit, pid, outcome)


class _OwnFile:
    """A user's file in the worker that is its own."""

    def __init__(self, path: str):
        self.path = path
        self.kept: set[int] = set()  # processes that its import started
        self.failure: Outcome | None = None
        self._is_loaded = False

    def load(self) -> None:
        """Imports it, once, and ahead of their time the modules that its functions import."""
        if self._is_loaded:
            return
        self._is_loaded = True
        adopt_orphans()
        try:
            module = run_file(Path(self.path))
            tasks = [each for each in vars(module).values() if isinstance(each, type) and issubclass(each, Task)]
            for name in [*_late_imports(Path(self.path)), *(name for task in tasks for name in task.late_imports)]:
                with suppress(Exception, SystemExit):  # where it is needed, the call will say so
                    importlib.import_module(name)
        except BaseException as error:  # noqa: BLE001  the code is the user's
            self.failure = Outcome(None, "error", str(error)[:MAX_MESSAGE_CHARS], is_mistake=True)
        gc.collect()
        gc.freeze()  # a fork's collector then copies no page of it
        self.kept = children(os.getpid())


def _late_imports(path: Path) -> list[str]:
    """Modules that the file's functions import: every call would pay for them, since a fork's modules end with it."""
    tree = ast.parse(path.read_bytes())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    nodes = [node for function in functions for node in ast.walk(function)]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    return list(dict.fromkeys(names))


class _Fork:
    """A fork of the worker that runs one unit and ends."""

    def __init__(self, own: _OwnFile, payload: bytes, unit: int, connection: socket.socket):
        self._own, self._unit = own, unit
        self._reading, writing = os.pipe()
        worker = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._reading)
            _run_and_exit(worker, own.path, payload, unit, writing, connection)
        os.close(writing)

    def outcome(self) -> tuple[bytes, bytes]:
        """Kind and payload of its outcome, when nothing that it started is left."""
        try:
            packet = self._read()
            kind, payload = packet.kind, packet.payload
        except GarbledError:
            outcome = Outcome(None, "error", "something wrote to the pipe of its process")
            kind, payload = FAILED_OUTCOME, outcome.to_json()
        except EOFError:
            outcome = Outcome(None, "error", f"its process {self._how_it_ended()}")
            kind, payload = FAILED_OUTCOME, outcome.to_json()
        os.close(self._reading)
        end_children(self._own.kept)
        return kind, payload

    def _read(self) -> Packet:
        """
        Raises:
            GarbledError: what came is not a packet of this unit and process
            EOFError: it ended without one
        """
        poller = select.poll()
        poller.register(self._reading, select.POLLIN)
        reader = PacketReader()
        while True:
            has_ended = self._has_ended()  # asked first: what it wrote is in the pipe by then
            if not poller.poll(0 if has_ended else _POLL_MS):
                if has_ended:
                    raise EOFError
                continue
            data = os.read(self._reading, 2**16)
            if not data:
                raise EOFError
            for packet in reader.feed(data):
                if (packet.unit, packet.pid) != (self._unit, self.pid) or packet.kind not in (OUTCOME, FAILED_OUTCOME):
                    raise GarbledError("a message of another unit or process")
                return packet

    def _has_ended(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _how_it_ended(self) -> str:
        waited = 0.0
        while not self._has_ended():
            if waited > _GRACE_S:
                return "closed its pipe"
            time.sleep(0.01)
            waited += 0.01
        _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        return f"died of signal {-code}" if code < 0 else f"ended with exit code {code} and no outcome"


def _run_and_exit(
    worker: int, own_file: str, payload: bytes, unit: int, writing: int, connection: socket.socket
) -> None:
    """The child's side: one outcome into its pipe. A fork of it that comes back here ends without a word."""
    pid = _getpid()
    try:
        os.setsid()  # a signal to its group is for itself
        die_with_parent(worker)
        connection.close()
        pipe = _move_away(writing)
        outcome = _run(_load(payload), unit, own_file)
        if _getpid() == pid:
            with suppress(Exception):
                sys.stdout.flush()
            _write_all(pipe, _packet(outcome, unit, pid).to_bytes())
    finally:
        _exit(0)


def _move_away(fd: int) -> int:
    """The descriptor under a high number, out of the way of code that counts them from 3."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    floor = min(soft if soft > 0 else 4096, 4096) // 2
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, floor)
    os.close(fd)
    return moved


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[_write(fd, data) :]


def _load(payload: bytes) -> Callable[[int], Any]:
    """What makes a unit's value; where the code does not load, each unit raises what the loading raised."""
    try:
        job: Job = pickle.loads(payload)
        return job.load()
    except BaseException as error:  # noqa: BLE001  the code is the user's
        failure = error

        def fail(unit: int) -> Any:
            raise failure

        return fail


def _run(run_unit: Callable[[int], Any], unit: int, own_file: str) -> Outcome:
    try:
        return Outcome(run_unit(unit))
    except BaseException as error:  # noqa: BLE001  also exit(): what a task raises is one completion's fault
        message = describe_failure(error, own_file, MAX_MESSAGE_CHARS)
        if isinstance(error, MemoryError) and not own_file and _is_limited():
            return Outcome(None, "error", "out of memory under the shell's limit; raise ulimit -v", is_mistake=True)
        return Outcome(None, "error", message, isinstance(error, CodeMistake))


def _is_limited() -> bool:
    """Whether the caller has limited the address space: the kit's own tasks take little, so it is the limit's fault."""
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def _packet(outcome: Outcome, unit: int, pid: int) -> Packet:
    return Packet(OUTCOME if outcome.status == "ok" else FAILED_OUTCOME, unit, pid, outcome.to_json())
