"""One run per folder: by a lock, which is looked at again before whatever is written.

A lock belongs to a file and writing goes by names: where the folder was renamed, or the lock removed, another run may
have the same name.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpg_vl.files import is_still
from gpg_vl.processes.ranks import run_on_main, run_together

LOCK_FILE = ".lock"
_LONGEST_OWNER = 200  # bytes
_SEEN_SECONDS = 30.0
_LOOK_SECONDS = 0.5
_held: dict[Path, int] = {}
"""The locks that this process holds, by folder: descriptors."""


class LostFolder(OSError):
    """The folder that this process had claimed is not its own any more."""


@contextmanager
def claim_folder(folder: Path) -> Iterator[None]:
    """Inside the context, no other run writes to the folder, which is made; a killed run also releases it.

    Raises:
        ValueError: another run is using it, or it cannot be written
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise ValueError(f"run.output_dir: cannot write to {folder} ({error.strerror}); choose another") from error
    try:
        _lock(lock, folder)
        _held[folder] = lock
        yield
    finally:
        _held.pop(folder, None)
        os.close(lock)


def _lock(lock: int, folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(lock, _LONGEST_OWNER, 0).decode(errors="replace").strip() or "another process"
        raise ValueError(f"run.output_dir: {owner} is writing to {folder}; end it, or choose another") from error
    except OSError as error:
        cause = f"{folder} is on a file system without file locks ({error.strerror})"
        raise ValueError(f"run.output_dir: {cause}; choose another") from error
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        os.fsync(lock)  # so that other nodes read it
    except OSError as error:
        raise ValueError(f"run.output_dir: cannot write to {folder} ({error.strerror}); free space") from error


def check_all_see(folder: Path) -> None:
    """All ranks call it together, once the first one has claimed the folder: each writes to it and reads it.

    Raises:
        ValueError: on some rank, another folder has this name; with several ranks, RankError on all of them
    """
    owner = run_on_main(lambda: _read_owner(folder))
    run_together(lambda: _check_owner(folder, owner))


def _read_owner(folder: Path) -> bytes:
    try:
        with (folder / LOCK_FILE).open("rb") as lock:
            return lock.read(_LONGEST_OWNER)
    except OSError:
        return b""


def _check_owner(folder: Path, owner: bytes) -> None:
    """Looks for a while: on a file system of several nodes, what is new may take a moment to be seen."""
    until = time.monotonic() + _SEEN_SECONDS
    while _read_owner(folder) != owner:
        if time.monotonic() < until:
            time.sleep(_LOOK_SECONDS)
            continue
        raise ValueError(
            f"run.output_dir: {folder} on {socket.gethostname()} is not the folder that the first process has claimed; "
            "choose one on a file system that all nodes see"
        )


def check_claim(folder: Path) -> None:
    """Does nothing in a process that has not claimed the folder, as a rank other than the first.

    Raises:
        LostFolder: the folder under this name, or the lock in it, is another one now
    """
    if folder in _held and not is_still(folder / LOCK_FILE, os.fstat(_held[folder])):
        raise LostFolder(
            f"{folder} was renamed or its {LOCK_FILE} removed while this run wrote to it; nothing more is written: "
            "start it again"
        )
