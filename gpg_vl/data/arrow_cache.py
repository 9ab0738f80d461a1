"""The Arrow copy that ``datasets`` makes of a Parquet file: of this very file, and whole.

``datasets`` tells files apart by name, size and time of modification, which a copy may keep. Here a copy belongs to an
inode and its time of change, which nothing keeps. A stamp, written last, tells whether a copy was touched since; one
without a stamp, or with another, is made anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
import pyarrow
import pyarrow.dataset
import pyarrow.parquet

from gpg_vl.data.footers import TooLarge, check_sizes
from gpg_vl.errors import first_line
from gpg_vl.files import replace_file

_STAMP = "stamp.json"
_ROW_GROUP_BY_ROW_GROUP = pyarrow.dataset.ParquetFragmentScanOptions(pre_buffer=False, use_buffered_stream=True)
"""Without this, the whole file stays in memory until its last row is read."""


def open_parquet(path: str) -> datasets.Dataset:
    """The rows of a Parquet file, memory-mapped.

    Raises:
        ValueError: it is not Parquet, is damaged, or has a column that ``datasets`` does not know
    """
    try:
        folder = _folder_of(path)
        with _locked(folder):
            if not _is_whole(folder):
                if check_sizes(path, folder.parent) == 0:  # datasets cannot read a file without rows
                    return datasets.Dataset.from_dict({})
                shutil.rmtree(folder, ignore_errors=True)
            data = _read(path, folder)
            replace_file(folder / _STAMP, json.dumps(_take_stamp(folder)))
        pyarrow.default_memory_pool().release_unused()  # frees the copy that was made; the rows are memory-mapped
        return data
    except (pyarrow.ArrowException, datasets.exceptions.DatasetGenerationError, OSError) as error:
        reason = first_line(error.__cause__ or error)
        raise ValueError(f"{path} cannot be read as parquet ({reason}); write it again") from error
    except TooLarge:
        raise
    except ValueError as error:  # a map, an interval: datasets has no such type
        message = f"{path} has a column that cannot be read; remove it or write it as text: {first_line(error)}"
        raise ValueError(message) from error


def _read(path: str, folder: Path) -> datasets.Dataset:
    with without_progress_bars():
        return datasets.Dataset.from_parquet(path, cache_dir=str(folder), fragment_scan_options=_ROW_GROUP_BY_ROW_GROUP)


def _folder_of(path: str) -> Path:
    """Where the copy of this file, as it is now, belongs."""
    real = Path(path).resolve()
    state = real.stat()
    name = repr((str(real), state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns))
    digest = hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=10).hexdigest()
    return Path(datasets.config.HF_DATASETS_CACHE) / "gpg_vl" / f"{real.stem[:40]}-{digest}"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time makes a copy, and none looks at it meanwhile."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_whole(folder: Path) -> bool:
    stamp = _take_stamp(folder)
    return stamp is not None and stamp == _read_stamp(folder)


def _take_stamp(folder: Path) -> dict[str, list[int]] | None:
    """Size and times of the copy's files; None if there are none."""
    files = sorted(each for each in folder.rglob("*.arrow") if each.is_file())
    stats = {str(each.relative_to(folder)): os.stat(each) for each in files}
    stamps = {name: [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns] for name, stat in stats.items()}
    return stamps or None


def _read_stamp(folder: Path) -> object:
    """The stamp of a finished copy; None if there is none, or it is damaged."""
    try:
        return json.loads((folder / _STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


@contextmanager
def without_progress_bars() -> Iterator[None]:
    were_disabled = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not were_disabled:
            datasets.enable_progress_bars()
