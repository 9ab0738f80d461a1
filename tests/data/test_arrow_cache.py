"""The copy of a Parquet file: never another file's, never a damaged one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from gpg_vl.data.arrow_cache import open_parquet
from gpg_vl.data.sources import load_source, write_parquet
from gpg_vl.records import Sample


def write(path: Path, answer: str, num: int = 20) -> None:
    write_parquet([Sample(f"r{n}", "counting", (), "q" * 500, answer) for n in range(num)], path)


def answers(path: Path) -> list[str]:
    return [sample.answer for sample in load_source(str(path)).samples]


def copy_of() -> Path:
    [copy] = Path(datasets.config.HF_DATASETS_CACHE).rglob("*.arrow")
    return copy


@pytest.mark.parametrize("in_place", [True, False])
def test_a_file_with_the_times_of_another_is_read_anew(tmp_path: Path, in_place: bool) -> None:
    path = tmp_path / "rows.parquet"
    write(path, "4")
    times = path.stat()
    assert answers(path) == ["4"] * 20
    write(tmp_path / "other.parquet", "5")
    if in_place:
        path.write_bytes((tmp_path / "other.parquet").read_bytes())
    else:
        (tmp_path / "other.parquet").replace(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_size == times.st_size and path.stat().st_mtime_ns == times.st_mtime_ns
    assert answers(path) == ["5"] * 20


def cut(copy: Path) -> None:
    os.truncate(copy, copy.stat().st_size // 2)


def overwrite(copy: Path) -> None:
    content = bytearray(copy.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    copy.write_bytes(content)


def empty(copy: Path) -> None:
    os.truncate(copy, 0)


def lose_stamp(copy: Path) -> None:
    [stamp] = Path(datasets.config.HF_DATASETS_CACHE).rglob("stamp.json")
    stamp.write_text("{")
    cut(copy)


@pytest.mark.parametrize("damage", [cut, overwrite, empty, Path.unlink, lose_stamp])
def test_a_damaged_copy_is_made_anew(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = tmp_path / "rows.parquet"
    write(path, "4")
    assert answers(path) == ["4"] * 20
    damage(copy_of())
    assert answers(path) == ["4"] * 20


def test_a_whole_copy_is_used_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write(path, "4")
    assert len(open_parquet(str(path))) == 20
    before = copy_of().stat()
    assert len(open_parquet(str(path))) == 20
    assert copy_of().stat().st_ino == before.st_ino and copy_of().stat().st_mtime_ns == before.st_mtime_ns
