"""Processes and all below them, as Linux shows them in /proc: how to find, weigh and end them."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_MAX_PASSES = 1000

_libc = ctypes.CDLL(None, use_errno=True)


def adopt_orphans() -> None:
    """From now on a process below this one that loses its parent becomes a child of this one, so none escapes."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(parent: int) -> None:
    """This process is killed when its parent ends; or at once if that has already happened."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def children(pid: int) -> set[int]:
    """Pids of the direct children, zombies included; none where the process has ended."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return set()
    found: set[int] = set()
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found.update(map(int, file.read().split()))
        except OSError:  # the thread has ended, or the kernel has no such file
            if not _HAS_CHILDREN_FILES:
                return {child for child in _all_pids() if _parent(child) == pid}
    return found


def family(pid: int) -> set[int]:
    """The process and all below it."""
    members, new = {pid}, {pid}
    while new:
        new = set().union(*map(children, new)) - members
        members |= new
    return members


def kill_family(pid: int) -> None:
    """Ends a process and all below it. First all stop, so that none can fork on while the others end."""
    stopped: set[int] = set()
    for _ in range(_MAX_PASSES):
        new = family(pid).union(*map(family, stopped)) - stopped
        if not new:
            break
        _signal(new, signal.SIGSTOP)
        stopped |= new
    _signal(stopped, signal.SIGKILL)


def end_children(kept: Iterable[int] = ()) -> None:
    """Ends the children of this process and all below them, except those in ``kept``, and leaves no zombie."""
    own = os.getpid()
    while strays := children(own).difference(kept):
        for pid in strays:
            kill_family(pid)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def memory_bytes(pid: int) -> int:
    """Resident memory without mapped files: what the process wrote, shared memory included. 0 if it has ended."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            fields = dict(line.split(b":", 1) for line in file.read().splitlines() if line.startswith(b"Rss"))
        return 1024 * sum(int(fields[name].split()[0]) for name in (b"RssAnon", b"RssShmem"))
    except (OSError, KeyError):
        return 0


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped the process; False where it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] in ("T", "t")
    except OSError:
        return False


def seconds_in_queue(pid: int) -> float:
    """How long a process has waited for a processor since its start; 0 where the kernel does not say."""
    try:
        with open(f"/proc/{pid}/schedstat", "rb", buffering=0) as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    except OSError:
        return 0


_HAS_CHILDREN_FILES = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").exists()
