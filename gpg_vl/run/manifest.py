"""Shows whether a folder is intact: its files are synced to disk, then every file's size and SHA-256 are written."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

MANIFEST_FILE = "manifest.json"
_THREADS = 8  # hashing releases the GIL: large files are hashed in parallel


def seal_folder(folder: Path) -> None:
    """Writes the manifest of ``folder``; after that, everything is on disk."""
    paths = _files_of(folder)
    with ThreadPoolExecutor(_THREADS) as pool:
        hashes = list(pool.map(_hash_file, paths))
    entries = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": digest}
        for path, digest in zip(paths, hashes, strict=True)
    }
    sync(paths)
    sync(path for path in folder.rglob("*") if path.is_dir())
    manifest = folder / MANIFEST_FILE
    manifest.write_text(json.dumps({"files": entries}, indent=1), encoding="utf-8")
    sync([manifest, folder])


def find_damage(folder: Path) -> str | None:
    """What is wrong with a sealed folder, in a few words; None if every file is unchanged."""
    try:
        content = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        entries: dict[str, dict[str, object]] = content["files"]
        expected = {folder / name: (entry["bytes"], entry["sha256"]) for name, entry in entries.items()}
    except FileNotFoundError:
        return f"no {MANIFEST_FILE}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{MANIFEST_FILE} is unreadable"
    if not expected:
        return f"{MANIFEST_FILE} lists no file"
    for path, (size, _) in expected.items():
        if not path.is_file():
            return f"{path.relative_to(folder)} is missing"
        if path.stat().st_size != size:
            return f"{path.relative_to(folder)} has {path.stat().st_size} bytes instead of {size}"
    try:
        with ThreadPoolExecutor(_THREADS) as pool:
            hashes = list(pool.map(_hash_file, expected))
    except OSError as error:
        return f"{error.filename} cannot be read ({error.strerror})"
    for (path, (_, digest)), found in zip(expected.items(), hashes, strict=True):
        if found != digest:
            return f"{path.relative_to(folder)} has changed since it was written"
    return None


def sync(paths: Iterable[Path]) -> None:
    """Returns once the files' contents, or the folders' entries, are on disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST_FILE)


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
