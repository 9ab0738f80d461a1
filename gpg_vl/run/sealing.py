"""Seals a folder: its files are synced to disk, then every file's size and SHA-256 are written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gpg_vl.models.folder.manifest import MANIFEST_FILE, THREADS, hash_file


def seal_folder(folder: Path) -> None:
    """Writes the manifest of ``folder``; after that, everything is on disk."""
    paths = _files_of(folder)
    with ThreadPoolExecutor(THREADS) as pool:
        hashes = list(pool.map(hash_file, paths))
    entries = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": digest}
        for path, digest in zip(paths, hashes, strict=True)
    }
    sync(paths)
    sync(path for path in folder.rglob("*") if path.is_dir())
    manifest = folder / MANIFEST_FILE
    manifest.write_text(json.dumps({"files": entries}, indent=1), encoding="utf-8")
    sync([manifest, folder])


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
