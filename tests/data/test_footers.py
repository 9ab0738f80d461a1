"""Parquet files that say of themselves that they do not fit."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

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
