"""Entries of data.train and data.eval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from gpg_vl.data.sources import load_source
from tests.support.kit_rows import kit_row, write_lines
from tests.support.messages import naming


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({"path": "x.jsonl", "wieght": 2}, ["wieght", "weight"]),
        ({"path": "x.jsonl", "columns": {"anser": "a"}}, ["x.jsonl", "anser", "answer"]),
        ({"path": "x.jsonl", "columns": "problem"}, ["x.jsonl", "columns", "problem"]),
        ({"path": "x.jsonl", "weight": 0}, ["x.jsonl", "weight", 0]),
        ({"path": "x.jsonl", "weight": float("nan")}, ["x.jsonl", "weight", "nan"]),
        ({"path": "x.jsonl", "weight": "2"}, ["x.jsonl", "weight", "'2'"]),
        ({"weight": 2}, ["data.train", "data.eval", "path"]),
        ({"path": "geo/train", "split": 3}, ["geo/train", "split", 3]),
        ({"path": "geo/train", "revison": "main"}, ["revison", "revision"]),
        ("x.jsonl", ["x.jsonl"]),
        ("x.parquet", ["x.parquet"]),
        ("data/geo/train", ["data/geo/train"]),
        ("./geo", ["./geo"]),
        ("geo/train", ["geo/train", "hub"]),
    ],
)
def test_bad_entries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str | dict[str, Any], named: list[Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=naming(*named)) as caught:
        load_source(entry)
    assert "\n" not in str(caught.value)


def test_repeated_ids(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", kit_row(1), kit_row(2), kit_row(1))
    with pytest.raises(ValueError, match=naming("rows.jsonl", "row 3", "r1", "row 1")):
        load_source(path)
    assert [sample.id for sample in load_source(path, check_ids=False).samples] == ["r1", "r2", "r1"]
