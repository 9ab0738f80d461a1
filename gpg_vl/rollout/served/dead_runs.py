"""The runs that share a folder: each holds a lock there for as long as it lives, and removes what dead ones have left.

A run is dead if its lock is free, whatever killed it. Only the kernel that a run was started under is sure to know:
some file systems do not pass locks on to other nodes. So what runs of other nodes have left stays, as does that of a
node before it was started anew, and whatever has no lock.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from pathlib import Path

from gpg_vl.screen import say

_LOCK = re.compile(r"\.([0-9a-f]{16})\.lock")
_KERNEL = Path("/proc/sys/kernel/random/boot_id")


def hold_lock(folder: Path, run: str) -> None:
    """Until this process ends. The lock appears locked; where the file system has none, nothing appears.

    Args:
        run: 16 random digits
    """
    path = _lock_of(folder, run)
    unlocked = path.with_suffix(".new")
    lock = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        say(f"note: {folder} has no file locks ({error.strerror}); if this run is killed, its last weights stay there")
        unlocked.unlink()
        os.close(lock)
        return
    os.write(lock, _this_kernel().encode())
    unlocked.rename(path)


def forget_run(folder: Path, run: str) -> None:
    """Removes all of a run: versions, what a failed publication left, and its lock."""
    remove_versions(folder, run, 0)
    _lock_of(folder, run).unlink(missing_ok=True)


def remove_versions(folder: Path, run: str, num_kept: int) -> None:
    """Removes all versions of a run but the last ones, and what a failed publication left."""
    for path in folder.glob(f".{run}-*.partial"):
        shutil.rmtree(path, ignore_errors=True)
    versions = sorted(folder.glob(f"{run}-*"))
    for path in versions[: len(versions) - num_kept]:
        shutil.rmtree(path, ignore_errors=True)


def remove_dead_runs(folder: Path) -> None:
    for path in folder.glob(".*.lock"):
        found = _LOCK.fullmatch(path.name)
        if found and _is_dead(path):
            forget_run(folder, found[1])


def _lock_of(folder: Path, run: str) -> Path:
    return folder / f".{run}.lock"


def _is_dead(path: Path) -> bool:
    try:
        lock = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # another user's, or removed in between
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.read(lock, 200).decode(errors="replace") == _this_kernel() != ""
    except OSError:
        return False
    finally:
        os.close(lock)


def _this_kernel() -> str:
    """A number that each start of a machine draws; empty where there is none."""
    try:
        return _KERNEL.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
