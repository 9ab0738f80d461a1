"""RefCOCO as VLM-R1 publishes it: a JSON list, boxes in pixels, pictures of COCO."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_tools.published_files import picture, write_zip
from data_tools.refcoco import main
from tests.support.converted import read_counts, read_rows
from tests.support.messages import lines_naming

NAME = "COCO_train2014_000000581857.jpg"


def record(solution: Any, **changes: Any) -> dict[str, Any]:
    return {"image": NAME, "problem": "the lady with the blue shirt", "solution": solution} | changes


def convert(tmp_path: Path, *records: Any) -> int:
    source = tmp_path / "refcoco_train.json"
    source.write_text(json.dumps(records))
    images = write_zip(tmp_path / "train2014.zip", {f"train2014/{NAME}": picture(1, (640, 480))})
    return main(["--source", str(source), "--images", str(images), "--out", str(tmp_path / "rows.parquet")])


def test_rows(tmp_path: Path) -> None:
    second = record([0, 0, 640, 480.5], image=f"train2014/{NAME}")
    assert convert(tmp_path, record([103.93, 299.99, 238.15, 477.4]), second) == 0
    samples = read_rows(tmp_path / "rows.parquet")
    assert [json.loads(sample.answer) for sample in samples] == [[103.93, 299.99, 238.15, 477.4], [0, 0, 640, 480]]
    assert samples[0].id == "refcoco_train-1" and samples[0].images == (picture(1, (640, 480)),)
    assert samples[0].question == "Find what this describes: the lady with the blue shirt"


def test_bad_records_are_counted(tmp_path: Path) -> None:
    bad = [
        record([0, 0, 900, 480]),
        record([10, 10, 10, 20]),
        record([10, 10, 20]),
        record("[1, 2, 3, 4]"),
        record([1, 2, 30, 40], image="other.jpg"),
        record([1, 2, 30, 40], image="../../etc/passwd"),
        record([1, 2, 30, 40], problem=""),
    ]
    assert convert(tmp_path, record([1, 2, 30, 40]), *bad) == 0
    dropped = {"a box is outside of its image": 2, "a field cannot be read": 5}
    assert read_counts(tmp_path / "rows.parquet")["dropped"] == dropped


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b'[{"image": "a", ', ["entry 0", "JSON"]),
        (b'{"image": "a"}', ["JSON", "list"]),
        (b"[1]", ["entry 1", "int"]),
        (b'[{"image": "\xe9"}]', ["JSON"]),
        (b"", ["JSON"]),
    ],
)
def test_bad_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, named: list[str]) -> None:
    (tmp_path / "train.json").write_bytes(content)
    words = ["--source", str(tmp_path / "train.json"), "--images", str(tmp_path), "--out", str(tmp_path / "o.parquet")]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert lines_naming(error, "train.json", *named) and error.count("\n") == 1, error
    assert [path.name for path in tmp_path.iterdir()] == ["train.json"]
