"""A task whose answer says what is done to the process and its surroundings; and the innocent one that looks around."""

from __future__ import annotations

import atexit
import builtins
import ctypes
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from gpg_vl.records import ImageView, Sample
from gpg_vl.tasks.base import Task

HOME = os.getcwd()
MASK = os.umask(0o022)
os.umask(MASK)
NUM_FILES = resource.getrlimit(resource.RLIMIT_NOFILE)


def clean() -> float:
    """1 where the process is as a fresh one is, and alone."""
    own = os.getpid()
    mask = os.umask(0o022)
    state = {
        "folder": os.getcwd() == HOME,
        "environment": "INVASIVE" not in os.environ and "PATH" in os.environ,
        "mask": mask == MASK,
        "signals": all(signal.getsignal(n) == signal.SIG_DFL for n in (signal.SIGTERM, signal.SIGCHLD, signal.SIGALRM)),
        "timer": signal.getitimer(signal.ITIMER_REAL)[0] == 0,
        "threads": threading.active_count() == 1 and len(os.listdir("/proc/self/task")) == 1,
        "children": not any(child_of(own)),
        "modules": json.dumps([1]) == "[1]" and struct.pack("B", 1) == b"\x01" and sorted([2, 1]) == [1, 2],
        "files": resource.getrlimit(resource.RLIMIT_NOFILE) == NUM_FILES and os.getpriority(os.PRIO_PROCESS, 0) == NICE,
        "state": not kept,
    }
    assert all(state.values()), [name for name, value in state.items() if not value]
    return 1.0


NICE = os.getpriority(os.PRIO_PROCESS, 0)
kept: list[Any] = []


def child_of(pid: int) -> Iterator[int]:
    """None where the process ends while it is looked at."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for name in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{name}/children") as file:
                yield from map(int, file.read().split())


def fds() -> list[int]:
    return [int(name) for name in os.listdir("/proc/self/fd") if int(name) > 2]


def write_everywhere(data: bytes) -> float:
    for fd in fds():
        with suppress(OSError):
            os.write(fd, data)
    return 1.0


def fork(in_child: Callable[[], Any], in_parent: Callable[[], Any] = lambda: 1.0) -> Any:
    return in_parent() if os.fork() else in_child()


def daemon() -> float:
    """The classical double fork, out of session and group, with every descriptor closed."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(0, 4096)
            time.sleep(600)
        os._exit(0)
    os.wait()
    return 1.0


def haunt() -> float:
    """A child that outlives its parent and writes to what it has from it."""
    if os.fork() == 0:
        os.setsid()
        for _ in range(600):
            write_everywhere(b"\x89gpgO" + b"\x00" * 12)
            time.sleep(0.01)
        os._exit(0)
    return 1.0


def fork_levels(depth: int) -> float:
    for _ in range(depth):
        os.fork()
    return 1.0


def set_signals() -> float:
    for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    return 1.0


def move_away() -> float:
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
    return 1.0


def set_environment() -> float:
    os.environ.clear()
    os.environ["INVASIVE"] = "1"
    os.umask(0o777)
    os.nice(5)
    return 1.0


def patch() -> float:
    kept.append("state of the module")
    for module, name in ((json, "dumps"), (struct, "pack"), (os, "getpid"), (os, "_exit"), (os, "write"), (os, "fork")):
        setattr(module, name, lambda *_, **__: 1)
    __builtins__["sorted"] = lambda _: 0.0  # type: ignore[index]
    return 1.0


def forget_modules() -> float:
    sys.modules.clear()
    sys.path.clear()
    sys.stdout = sys.stderr = None
    return 1.0


def start_threads() -> float:
    for _ in range(50):
        threading.Thread(target=time.sleep, args=(600,)).start()
    return 1.0


def lower_limits() -> float:
    for name in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_STACK):
        resource.setrlimit(name, (16, 16))
    return 1.0


def start_in_a_session() -> float:
    subprocess.Popen(["sleep", "600"], start_new_session=True)
    return 1.0


def hold_memory() -> float:
    kept.append(b"x" * (50 * 2**20))
    return 1.0


def point_everywhere() -> float:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(4096):
        with suppress(OSError):
            os.dup2(null, fd)
    return 1.0


def overflow() -> float:
    sys.setrecursionlimit(10**9)

    def deeper() -> None:
        deeper()

    deeper()
    return 1.0


def alarm() -> float:
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    time.sleep(600)
    return 1.0


def end_in_a_thread() -> float:
    threading.Thread(target=lambda: os._exit(0)).start()
    time.sleep(600)
    return 1.0


def fork_in_a_thread() -> float:
    thread = threading.Thread(target=os.fork)
    thread.start()
    thread.join()
    return 1.0


def hook() -> float:
    atexit.register(time.sleep, 600)
    sys.addaudithook(lambda *_: None)
    sys.settrace(lambda *_: None)
    sys.excepthook = lambda *_: time.sleep(600)
    return 1.0


def open_files() -> float:
    kept.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(500))
    return 1.0


def print_much() -> float:
    print("x" * 2**18, flush=True)
    os.write(2, b"y" * 2**18)
    return 1.0


def patch_system() -> float:
    os.write, os._exit, os.getpid, os.fork = (lambda *_: 0,) * 4  # type: ignore[assignment,misc]
    time.sleep, time.monotonic = (lambda *_: 0,) * 2  # type: ignore[assignment,misc]
    return 1.0


def patch_builtins() -> float:
    builtins.len = lambda _: 9  # type: ignore[assignment]
    builtins.isinstance = lambda *_: True  # type: ignore[assignment]
    return 1.0


def signal_neighbours(number: int) -> float:
    """To every worker of the pool and what runs in it, but for this call's own."""
    worker = os.getppid()
    with open(f"/proc/{worker}/stat") as file:
        supervisor = int(file.read().rpartition(")")[2].split()[1])
    for other in set(child_of(supervisor)) - {worker}:
        for pid in (*child_of(other), other):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
    return 1.0


ACTIONS: dict[str, tuple[Callable[[], Any], str]] = {
    "clean": (clean, "ok"),
    "fork, child returns": (lambda: fork(lambda: 0.5), "ok"),
    "fork, child exits": (lambda: fork(lambda: sys.exit(0)), "ok"),
    "fork, child raises": (lambda: fork(lambda: 1 / 0), "ok"),
    "fork, child sleeps": (lambda: fork(lambda: time.sleep(600)), "ok"),
    "fork, child spins": (lambda: fork(lambda: sum(range(10**12))), "ok"),
    "fork, parent ends": (lambda: fork(lambda: 1.0, lambda: os._exit(0)), "error"),
    "fork, parent raises": (lambda: fork(lambda: 1.0, lambda: 1 / 0), "error"),
    "fork, parent sleeps": (lambda: fork(lambda: 1.0, lambda: time.sleep(600)), "timeout"),
    "forks of forks": (lambda: fork_levels(4), "ok"),
    "daemon": (daemon, "ok"),
    "haunt": (haunt, "ok or error"),
    "session": (start_in_a_session, "ok"),
    "shell": (lambda: os.system("sleep 600 & (sleep 600 &)") or 1.0, "ok"),
    "stray bytes": (lambda: write_everywhere(b"stray" * 100), "error"),
    "one stray byte": (lambda: write_everywhere(b"\x89"), "error"),
    "stray header": (lambda: write_everywhere(b"\x89gpgO" + b"\x00" * 8 + b"\xff\xff\xff\x7f"), "error"),
    "stray outcome": (lambda: write_everywhere(b"\x89gpgO" + b"\x00" * 12), "error"),
    "half a header, then sleep": (lambda: write_everywhere(b"\x89gpgO") and time.sleep(600), "timeout"),
    "closed descriptors": (lambda: os.closerange(0, 65536) or 1.0, "error"),
    "other descriptors": (lambda: point_everywhere(), "error"),
    "low descriptors closed": (lambda: os.closerange(0, 64) or 1.0, "ok"),
    "folder": (move_away, "ok"),
    "environment": (set_environment, "ok"),
    "signals": (set_signals, "ok"),
    "patches": (patch, "ok"),
    "modules": (forget_modules, "ok"),
    "threads": (start_threads, "ok"),
    "limits": (lower_limits, "ok"),
    "memory held": (hold_memory, "ok"),
    "memory of a child": (lambda: fork(lambda: time.sleep(len(b"x" * (3 * 2**30))), lambda: os.wait()), "error"),
    "kill the parent": (lambda: os.kill(os.getppid(), signal.SIGKILL) or time.sleep(600), "error"),
    "stop the parent": (lambda: os.kill(os.getppid(), signal.SIGSTOP) or 1.0, "timeout"),
    "kill the group": (lambda: os.killpg(0, signal.SIGKILL), "error"),
    "abort": (os.abort, "error"),
    "kill itself": (lambda: os.kill(os.getpid(), signal.SIGKILL), "error"),
    "stop itself": (lambda: os.kill(os.getpid(), signal.SIGSTOP), "timeout"),
    "end the parent": (lambda: os.kill(os.getppid(), signal.SIGTERM) or time.sleep(600), "error"),
    "kill the neighbours": (lambda: signal_neighbours(signal.SIGKILL), "ok"),
    "stop the neighbours": (lambda: signal_neighbours(signal.SIGSTOP), "ok"),
    "alarm": (alarm, "error"),
    "segmentation fault": (lambda: ctypes.string_at(0), "error"),
    "stack overflow": (overflow, "error"),
    "thread that ends all": (end_in_a_thread, "error"),
    "fork in a thread": (fork_in_a_thread, "ok"),
    "hooks": (hook, "ok"),
    "open files": (open_files, "ok"),
    "much output": (print_much, "ok"),
    "system calls patched": (patch_system, "ok or error"),
    "builtins patched": (patch_builtins, "ok or error"),
    "much memory": (lambda: time.sleep(len(b"x" * 2**30)), "error"),
    "exec": (lambda: os.execv("/bin/true", ["true"]), "error"),
}
"""What to do, and the status that it has to have. What haunts its own pipe may be faster than its parent, and what
replaces the interpreter's own functions may hurt itself."""


def invade(completions: Sequence[str], **_: Any) -> list[float]:
    """A reward function that does what the first completion names, and gives each completion the number behind it."""
    value = ACTIONS[completions[0].partition(":")[0]][0]()
    assert value == 1.0, "what comes back here is a fork"
    return [float(each.partition(":")[2]) for each in completions]


class Invasive(Task):
    name = "invasive"

    def ask(self, sample: Sample, views: Sequence[ImageView]) -> str:
        return sample.question

    def read(self, answer: str, sample: Sample, views: Sequence[ImageView]) -> Any:
        return answer

    def score(self, answer: str, sample: Sample, views: Sequence[ImageView]) -> dict[str, float]:
        return {"correct": ACTIONS[answer][0]()}
