"""Every operation of a save that reaches the disk, counted; at a chosen one the process is killed, or the disk is full.

Seen are Python's own operations, through audit events (open for writing, mkdir, rename, remove, rmdir), fsync, and the
files that safetensors writes, which no event tells of: these also half written.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

EVENTS = {"os.mkdir", "os.rename", "os.remove", "os.rmdir"}
KILLED = 137

Fault = Callable[[], None]


def kill() -> None:
    """Ends the process as SIGKILL would: nothing is flushed or cleaned up."""
    os._exit(KILLED)


def full_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class FileOperations:
    """Counts the operations below ``folder``; ``fault`` strikes before number ``strike_at``, or half-way through it."""

    def __init__(self, folder: Path, strike_at: int | None = None, fault: Fault = kill, torn: bool = False):
        self._folder = str(folder)
        self._strike_at = strike_at
        self._fault = fault
        self._torn = torn
        self.names: list[str] = []
        self.tearable: list[int] = []  # numbers of the operations that can be left half done

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        """From now on; audit hooks cannot be taken back, so only in a process made for it."""
        sys.addaudithook(self._on_event)
        fsync, save_file = os.fsync, safetensors.torch.save_file

        def watched_fsync(descriptor: int) -> None:
            self._count("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
            fsync(descriptor)

        def watched_save_file(tensors: Any, path: Any, *words: Any, **names: Any) -> None:
            self.tearable.append(len(self.names))
            if self._torn and self._strike_at == len(self.names):
                save_file(tensors, path, *words, **names)
                os.truncate(path, os.path.getsize(path) // 2)
            self._count("safetensors", str(path))
            save_file(tensors, path, *words, **names)

        patch.setattr(os, "fsync", watched_fsync)
        for name in ("gpg_vl.run.checkpoint_writing.save_file", "gpg_vl.run.moments.save_file"):
            patch.setattr(name, watched_save_file)
        patch.setattr("transformers.modeling_utils.safe_save_file", watched_save_file)

    def _on_event(self, event: str, words: tuple[Any, ...]) -> None:
        if event in EVENTS or (event == "open" and isinstance(words[2], int) and words[2] & (os.O_WRONLY | os.O_RDWR)):
            self._count(event, str(words[0]))

    def _count(self, operation: str, path: str) -> None:
        if not path.startswith(self._folder):
            return
        number = len(self.names)
        self.names.append(f"{operation} {path}")
        if number == self._strike_at:
            self._fault()


def in_child(work: Callable[[], int]) -> int:
    """The exit code of ``work`` in a forked process; 1 where it raised."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
