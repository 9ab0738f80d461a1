"""The version of a row, and what a text field may hold."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet
import pytest

from gpg_vl.data.sources import load_source, write_jsonl, write_parquet
from tests.support.kit_rows import demo_samples, kit_row, png, write_lines
from tests.support.messages import naming


def test_rows_of_a_newer_schema_are_refused(tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "rows.jsonl", kit_row(1), kit_row(2, schema_version=1), kit_row(3, schema_version=2))
    samples = load_source(lines).samples
    assert [sample.meta for sample in samples[:2]] == [{}, {}]
    with pytest.raises(ValueError, match=naming("rows.jsonl", "row 3", "schema_version", 2, 1)):
        samples[2]


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl"])
def test_files_say_their_schema(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    (write_parquet if path.suffix == ".parquet" else write_jsonl)(demo_samples(png()), path)
    if path.suffix == ".parquet":
        rows = pyarrow.parquet.read_table(path).to_pylist()
    else:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [row["schema_version"] for row in rows] == [1, 1, 1]
    assert load_source(str(path)).samples[0].meta == demo_samples(png())[0].meta


@pytest.mark.parametrize("field", ["question", "answer"])
def test_a_text_of_a_million_characters_is_refused(tmp_path: Path, field: str) -> None:
    lines = write_lines(tmp_path / "rows.jsonl", kit_row(1), kit_row(2, **{field: "x" * 1_000_000}))
    with pytest.raises(ValueError, match=naming("rows.jsonl", "row 2", field, 1000000, 65536)) as caught:
        load_source(lines).samples[1]
    assert len(str(caught.value)) < 300
