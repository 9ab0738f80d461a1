"""Parquet files that say of themselves that they do not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from data_tools.sources import read_all_parquet
from gpg_vl.data.footers import check_sizes
from gpg_vl.data.sources import load_source
from tests.support.messages import naming

ROWS = 10_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A few kB that hold 10 MB: equal text, compressed and not as a dictionary."""
    texts = ["x" * 1000] * ROWS
    table = pyarrow.table({"id": [str(n) for n in range(ROWS)], "question": texts, "nothing": [None] * ROWS})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet", compression="zstd", use_dictionary=False)
    assert (tmp_path / "rows.parquet").stat().st_size < 200_000
    return tmp_path / "rows.parquet"


def test_what_fits_is_counted(path: Path, tmp_path: Path) -> None:
    assert check_sizes(path) == check_sizes(path, tmp_path / "not/yet/there") == ROWS


def test_a_disk_without_room_is_said_before_anything_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=9 * 10**6))
    monkeypatch.setattr("datasets.Dataset.from_parquet", lambda *_, **__: pytest.fail("read it"))
    with pytest.raises(ValueError, match=naming(path, "HF_DATASETS_CACHE")) as caught:
        load_source(str(path))
    assert "\n" not in str(caught.value)
    assert check_sizes(path) == ROWS, "a converter copies nothing"


def test_memory_without_room_is_said_before_anything_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=9 * 10**6))
    for read in (lambda: check_sizes(path), lambda: next(read_all_parquet(str(path)))):
        with pytest.raises(ValueError, match=naming(path, "row group")):
            read()


def test_rows_of_nothing_take_room_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"a": pyarrow.nulls(10**6, pyarrow.string())}), path)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=7 * 10**6))
    with pytest.raises(ValueError, match=naming(path)):
        check_sizes(path)


def repeat(path: Path, column: str, values: Any) -> Path:
    """1,000 rows that share one value of a dictionary, as a writer that is given a dictionary writes them."""
    table = pyarrow.table({"id": [str(n) for n in range(1000)], column: values})
    pyarrow.parquet.write_table(table, path, store_schema=False)
    assert path.stat().st_size < 200_000
    return path


def shared(value: Any) -> Any:
    return pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 1000, pyarrow.int32()), pyarrow.array([value]))


def as_images(content: Any) -> Any:
    images = pyarrow.StructArray.from_arrays([content, pyarrow.nulls(1000, pyarrow.string())], ["bytes", "path"])
    return pyarrow.ListArray.from_arrays(pyarrow.array(range(1001), pyarrow.int32()), images)


@pytest.mark.parametrize(
    ("column", "make"),
    [
        ("question", lambda: shared("x" * 10**6)),
        ("images", lambda: as_images(shared(b"x" * 10**6))),
        ("deep", lambda: pyarrow.ListArray.from_arrays([0] * 1000 + [1000], as_images(shared(b"x" * 10**6)))),
    ],
)
def test_rows_that_share_a_long_text_take_room_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str, make: Callable[[], Any]
) -> None:
    """About 50 kB that are 1 GB once they are read."""
    path = repeat(tmp_path / "rows.parquet", column, make())
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=10**9))
    before = pyarrow.total_allocated_bytes()
    with pytest.raises(ValueError, match=naming(path, "row group", 1.0)):
        check_sizes(path)
    assert pyarrow.total_allocated_bytes() - before < 10**8
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=2 * 10**9))
    assert check_sizes(path) == 1000


def test_short_texts_of_a_large_dictionary_are_counted_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10,000 texts that stand in a dictionary of 1 MB: 10 GB, if all were as long as the whole dictionary."""
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"question": [f"{n:0100}" for n in range(ROWS)]}), path)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=3 * 10**6))
    assert check_sizes(path) == ROWS


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
def test_texts_that_repeat_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    path = tmp_path / "rows.parquet"
    table = pyarrow.table({"question": ["x" * 100_000] * 100})
    pyarrow.parquet.write_table(table, path, use_dictionary=False, column_encoding={"question": encoding})
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=9 * 10**6))
    with pytest.raises(ValueError, match=naming(path, "row group")):
        check_sizes(path)


def test_values_of_a_fixed_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = repeat(tmp_path / "rows.parquet", "code", pyarrow.array([b"x" * 10**5] * 1000, pyarrow.binary(10**5)))
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=9 * 10**7))
    with pytest.raises(ValueError, match=naming(path, "row group")):
        check_sizes(path)
