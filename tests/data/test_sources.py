"""Entries of data.train and data.eval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from gpg_vl.data.sources import load_source
from tests.support.kit_rows import kit_row, write_lines


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"path": "x.jsonl", "wieght": 2}, "unknown key 'wieght'; did you mean 'weight'"),
        ({"path": "x.jsonl", "columns": {"anser": "a"}}, "unknown field 'anser'; did you mean 'answer'"),
        ({"path": "x.jsonl", "columns": "problem"}, "make it a mapping"),
        ({"path": "x.jsonl", "weight": 0}, "weight is 0; make it a number above 0"),
        ({"path": "x.jsonl", "weight": float("nan")}, "weight is nan"),
        ({"path": "x.jsonl", "weight": "2"}, "weight is '2'"),
        ({"weight": 2}, "has no path"),
        ("x.jsonl", "no such file: x.jsonl"),
        ("x.parquet", "no such file: x.parquet"),
        ("data/geo/train", "no such file: data/geo/train"),
        ("./geo", "no such file: ./geo"),
        ("geo/train", "geo/train is no file or folder here, and as a hub data set it cannot be loaded: "),
    ],
)
def test_bad_entries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str | dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=message) as caught:
        load_source(entry)
    assert "\n" not in str(caught.value)


def test_repeated_ids(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", kit_row(1), kit_row(2), kit_row(1))
    with pytest.raises(ValueError, match=r"rows\.jsonl, row 3: has the id 'r1' of row 1"):
        load_source(path)
    assert [sample.id for sample in load_source(path, check_ids=False).samples] == ["r1", "r2", "r1"]
