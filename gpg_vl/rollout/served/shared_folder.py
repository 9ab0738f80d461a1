"""The folder that a run and its servers share: the token, and a folder of weights for each version."""

from __future__ import annotations

import atexit
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from gpg_vl.rollout.served.dead_runs import forget_run, hold_lock, remove_dead_runs, remove_versions

TOKEN_FILE = "token"
_LEAST_TOKEN = 32
_WRITING_SECONDS = 5.0


def make_token(folder: Path) -> str:
    """The folder's token, which only its owner can read; a new one where there is none.

    Raises:
        ValueError: others can read it, or it is too short to be one
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(folder / TOKEN_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        _wait_for_token(folder / TOKEN_FILE)
        return read_token(folder)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    return read_token(folder)


def _wait_for_token(path: Path) -> None:
    """Another server that starts now may have made the file and not written into it yet."""
    end = time.monotonic() + _WRITING_SECONDS
    while not os.lstat(path).st_size and time.monotonic() < end:
        time.sleep(0.02)


def read_token(folder: Path) -> str:
    """
    Raises:
        ValueError: there is none, others can read it, or it is too short to be one
    """
    path = folder / TOKEN_FILE
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}): start gpg-vl serve-rollouts with the same folder --weights"
        ) from error
    with os.fdopen(descriptor, encoding="ascii", errors="replace") as file:
        if os.fstat(file.fileno()).st_mode & 0o077:
            raise ValueError(f"{path} can be read by others; chmod 600 it")
        token = file.read(4096).strip()
    if len(token) < _LEAST_TOKEN or not token.isalnum() or not token.isascii():
        raise ValueError(f"{path} holds no token; remove it, and start gpg-vl serve-rollouts again")
    return token


class Versions:
    """The names of one run's weights (``messages.VERSION``)."""

    def __init__(self) -> None:
        self.run = secrets.token_hex(8)
        self.num = 0

    def next(self) -> str:
        self.num += 1
        return f"{self.run}-{self.num:08d}"


class Published:
    """The versions of one run; all but the last two are removed, and those when the process ends.

    Those of a run that was killed are removed by the next one of this machine.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._versions = Versions()

    def publish(self, write: Callable[[Path], None]) -> str:
        """A new version, whose folder appears complete or not at all.

        Args:
            write: puts the weights into a folder
        """
        if not self._versions.num:
            self._begin()
        version = self._versions.next()
        partial = self._folder / f".{version}.partial"
        partial.mkdir(parents=True)
        write(partial)
        partial.rename(self._folder / version)
        remove_versions(self._folder, self._versions.run, 2)
        return version

    def _begin(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        hold_lock(self._folder, self._versions.run)
        atexit.register(self.end)
        remove_dead_runs(self._folder)

    def end(self) -> None:
        """Removes all of this run's."""
        forget_run(self._folder, self._versions.run)
