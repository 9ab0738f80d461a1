"""Files of rows -> copies without their bad rows; the originals are not changed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from data_tools.row_checks import DataFile, open_file
from gpg_vl.data.images import fetch_image
from gpg_vl.data.sources import write_parquet
from gpg_vl.files import lies_in, same_place
from gpg_vl.records import Sample


def plan_copies(files: Sequence[DataFile], folder: str) -> dict[DataFile, Path]:
    """The path for the copy of each file: ``NAME.parquet`` in the folder.

    Raises:
        ValueError: two files would have the same copy, or a copy would replace its original
    """
    copies: dict[DataFile, Path] = {}
    for file in files:
        target = Path(folder) / f"{Path(file.path).stem}.parquet"
        if target in copies.values():
            raise ValueError(f"--out {folder}: two files are named {target.stem}; clean them one at a time")
        for other in files:
            if same_place(target, Path(other.path)):
                raise ValueError(f"--out {folder}: the copy would replace {other.path}; give another folder")
            if Path(other.path).is_dir() and lies_in(target, Path(other.path)):
                raise ValueError(f"--out {folder}: it is inside of {other.path}; give another folder")
        copies[file] = target
    return copies


def write_copy(file: DataFile, bad_rows: Collection[int], target: Path) -> int:
    """Writes kit rows including their images, completely or not at all; returns how many.

    Args:
        bad_rows: numbers of the rows to leave out, counted from 1

    Raises:
        ValueError: no row would be left, or an image no longer exists at its URL
    """
    samples = open_file(file).samples
    kept = [index for index in range(len(samples)) if index + 1 not in bad_rows]
    if not kept:
        raise ValueError(f"{file.path}: no row is good, so there is nothing to copy")
    write_parquet((_with_images(samples[index], file.image_hosts) for index in kept), target)
    return len(kept)


def _with_images(sample: Sample, hosts: Collection[str]) -> Sample:
    return replace(sample, images=tuple(fetch_image(source, hosts) for source in sample.images))
