"""Sizes a Parquet file from its footer, before any of its rows is read: a small file can hold more than the machine."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil
import pyarrow.parquet  # type: ignore[import-untyped]

_BYTES_PER_VALUE = 8
"""What a value takes beside its content, as an offset or a number: columns of nulls have no content."""


class TooLarge(ValueError):
    """The content does not fit; names the file, what it takes and what is free."""


def check_sizes(path: str | Path, copied_to: Path | None = None) -> int:
    """The number of rows.

    Args:
        copied_to: folder that a copy of the whole content goes to; None: a part at a time is in memory

    Raises:
        TooLarge: a row group does not fit into memory, or the whole content on the disk
        pyarrow.ArrowException, OSError: it is no Parquet file
    """
    footer = pyarrow.parquet.read_metadata(path)
    groups = [footer.row_group(n) for n in range(footer.num_row_groups)]
    sizes = [group.total_byte_size + _BYTES_PER_VALUE * group.num_rows * footer.num_columns for group in groups]
    memory = psutil.virtual_memory().available
    if max(sizes, default=0) > memory:
        raise TooLarge(
            f"{path} has a row group of {max(sizes) / 1e9:.1f} GB, but {memory / 1e9:.1f} GB of memory are free; "
            "write it with smaller row groups"
        )
    if copied_to is not None:
        there = next(folder for folder in (copied_to, *copied_to.parents) if folder.is_dir())
        free = shutil.disk_usage(there).free
        if sum(sizes) > free:
            raise TooLarge(
                f"{path} holds {sum(sizes) / 1e9:.1f} GB, but {copied_to} has {free / 1e9:.1f} GB free; free space, or "
                "set HF_DATASETS_CACHE to a folder on a larger disk"
            )
    return int(footer.num_rows)
