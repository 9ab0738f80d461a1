"""Files that appear complete or not at all, and names that stay where they belong."""

from __future__ import annotations

import fcntl
import glob
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gpg_vl.errors import first_line, is_disk_error

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_LOCAL_FOLDERS = ("models", "data", "runs", "checkpoints", "outputs")
_FILE_SUFFIXES = (".parquet", ".jsonl", ".json", ".csv", ".zip", ".yaml")


def replace_file(path: Path, text: str) -> None:
    """Writes ``text`` as UTF-8; half of a surrogate pair, which UTF-8 does not have, is escaped as in JSON."""
    with naming(path), unfinished(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(partial, path)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Inside, an error of the system that names no file, as that of a full disk, names this one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
    except Exception as error:
        if not is_disk_error(error):
            raise
        raise OSError(f"{path} could not be written: {first_line(error)}") from error


@contextmanager
def unfinished(path: Path, alone: bool = False) -> Iterator[Path]:
    """A new, empty file beside ``path``, which the block fills and renames; otherwise it is removed.

    Its name cannot be foreseen, no link is followed, and its permissions follow the umask. What killed processes left
    for the same path is removed. Of two processes, each has its own; the later one's replaces the other's.

    Args:
        alone: whether a second process is refused, which has more to replace than this file

    Raises:
        ValueError: another process is writing the same file, and ``alone``
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _remove_abandoned(path, partial) and alone:
            raise ValueError(f"{path}: another process is writing it; wait for it, or choose another name")
        with naming(path):
            yield partial
    finally:
        if partial.exists():
            partial.unlink()
        os.close(descriptor)


def _remove_abandoned(path: Path, own: Path) -> bool:
    """Removes the unfinished files for ``path`` that nobody holds; whether another process holds one."""
    is_held = False
    pattern = f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}.partial"
    for other in path.parent.glob(pattern):
        if other == own or not (descriptor := _open_plain(other)):
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            other.unlink(missing_ok=True)
        except BlockingIOError:
            is_held = True
        except OSError:  # no locks, or not ours to remove
            pass
        finally:
            os.close(descriptor)
    return is_held


def _open_plain(path: Path) -> int | None:
    with suppress(OSError):
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    return None


def follow_umask(folder: Path) -> None:
    """Gives every file of a new folder the permissions that the umask gave the folder: safetensors writes 0600.

    A file that another process renames meanwhile may be left out.
    """
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with suppress(FileNotFoundError):
                path.chmod(mode)


def stays_inside(name: object) -> bool:
    """Whether ``name``, which a file of a folder gives, is a relative path that does not leave the folder."""
    if not isinstance(name, str) or not name or "\0" in name:
        return False
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def is_inside(folder: Path, name: object) -> bool:
    """The same, where links must not leave the folder either."""
    return stays_inside(name) and (folder / str(name)).resolve().is_relative_to(folder.resolve())


def may_be_on_hub(name: str) -> bool:
    """Whether ``name``, which is no local file or folder, can be a name on the hub, ``NAME`` or ``OWNER/NAME``.

    Where the first part is a folder here, or is called as the docs call local folders, it is a path that is missing.
    """
    owner = name.partition("/")[0]
    is_local = owner in _LOCAL_FOLDERS or Path(owner).is_dir() or name.lower().endswith(_FILE_SUFFIXES)
    return _HUB_NAME.fullmatch(name) is not None and not is_local


def same_place(path: Path, other: Path) -> bool:
    """Whether both lead to one file or folder, or would."""
    return path.resolve() == other.resolve() or (path.exists() and other.exists() and path.samefile(other))


def is_still(path: Path, opened: os.stat_result) -> bool:
    """Whether the file under this name is the one that was opened: it may have been removed, or the name given away."""
    try:
        return os.path.samestat(path.stat(), opened)
    except OSError:
        return False


def lies_in(path: Path, folder: Path) -> bool:
    """Whether ``path`` is ``folder`` or inside it, links followed."""
    return path.resolve().is_relative_to(folder.resolve())
