"""The manifest of a sealed folder: the size and SHA-256 of every file. Whoever reads a checkpoint looks at it first.

``run.sealing`` writes it.
"""

from __future__ import annotations

import functools
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gpg_vl.files import is_inside

MANIFEST_FILE = "manifest.json"
THREADS = 8
"""Hashing releases the GIL: large files are hashed in parallel."""

_Entries = dict[str, tuple[object, object]]  # by name, bytes and SHA-256


def find_damage(folder: Path) -> str | None:
    """What is wrong with a sealed folder, in a few words; None if every file is unchanged."""
    try:
        entries = _read_entries(folder)
    except FileNotFoundError:
        return f"no {MANIFEST_FILE}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{MANIFEST_FILE} is unreadable"
    if not entries:
        return f"{MANIFEST_FILE} lists no file"
    for name, (size, _) in entries.items():
        path = folder / name
        if not is_inside(folder, name):
            return f"{name!r} is not a file in the folder"
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
    return _find_change(folder, entries)


def _read_entries(folder: Path) -> _Entries:
    files: dict[str, dict[str, object]] = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))["files"]
    return {name: (entry["bytes"], entry["sha256"]) for name, entry in files.items()}


def _find_change(folder: Path, entries: _Entries) -> str | None:
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            hashes = list(pool.map(hash_file, [folder / name for name in entries]))
    except OSError as error:
        return f"{error.filename} cannot be read ({error.strerror})"
    for (name, (_, digest)), found in zip(entries.items(), hashes, strict=True):
        if found != digest:
            return f"{name} has changed since it was written"
    return None


def find_damage_once(folder: Path) -> str | None:
    """The same; what has not changed since is not hashed again in this process."""
    stats = [(path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
    return _find_damage_of(folder, tuple((str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats))


@functools.lru_cache(maxsize=16)
def _find_damage_of(folder: Path, files: tuple[tuple[str, int, int], ...]) -> str | None:
    return find_damage(folder)


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
