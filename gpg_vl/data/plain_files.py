"""Opens a file by a path without links: one that took the place of a folder since the path was checked is seen."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe is not waited for


def read_plain_file(path: str, max_bytes: int) -> bytes:
    """The content of a regular file; one byte more than ``max_bytes`` where it is larger.

    Args:
        path: absolute, and resolved before

    Raises:
        OSError: there is no such file, a part of the path is a link, or it is a folder, a pipe or a device
    """
    descriptor = _open(Path(os.path.abspath(path)))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not an ordinary file")
    with os.fdopen(descriptor, "rb") as file:
        return file.read(max_bytes + 1)


def _open(path: Path) -> int:
    folder = os.open(path.anchor, _FOLDER)
    try:
        for name in path.parts[1:-1]:
            inner = os.open(name, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = inner
        return os.open(path.name, _FILE, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise OSError(error.errno, "a part of its path is a link, or is not a folder") from error
        raise
    finally:
        os.close(folder)
