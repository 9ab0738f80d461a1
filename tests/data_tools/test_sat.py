"""SAT: bytes and options straight from the published Parquet."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from data_tools.published_files import picture, sat_row, write_sat
from data_tools.sat import COLUMNS, main
from tests.support.converted import read_counts, read_rows
from tests.support.messages import lines_naming


def test_rows(tmp_path: Path) -> None:
    write_sat(tmp_path / "SAT/SAT_train.parquet", [sat_row(n) for n in range(40)])
    write_sat(tmp_path / "SAT/SAT_val.parquet", [sat_row(n) for n in range(2)])
    source = ["--source", str(tmp_path / "SAT")]
    out = tmp_path / "train.parquet"
    assert main([*source, "--out", str(out)]) == 0
    samples = read_rows(out)
    assert [sample.images for sample in samples] == [(picture(n),) for n in range(40)]
    assert {(s.task, s.answer, s.meta["question_type"]) for s in samples} == {("choice", "left", "obj_movement")}
    orders = [sample.meta["options"] for sample in samples]
    assert 5 < orders.count(["left", "right"]) < 35 and all(sorted(order) == ["left", "right"] for order in orders)
    assert all(s.question.endswith(f" Choose one of: {' or '.join(s.meta['options'])}.") for s in samples)
    assert main([*source, "--out", str(tmp_path / "val.parquet"), "--split", "val"]) == 0
    assert [sample.id for sample in read_rows(tmp_path / "val.parquet")] == ["sat-val-1", "sat-val-2"]


def test_options_are_shuffled_by_seed_and_row(tmp_path: Path) -> None:
    source = write_sat(tmp_path / "SAT_train.parquet", [sat_row(n) for n in range(30)])

    def convert(*words: str) -> list[list[str]]:
        assert main(["--source", str(source), "--out", str(tmp_path / "rows.parquet"), *words]) == 0
        return [sample.meta["options"] for sample in read_rows(tmp_path / "rows.parquet")]

    first = convert()
    assert convert() == first
    assert convert("--limit", "12") == first[:12]
    assert convert("--seed", "1") != first


def test_limit_counts_rows_before_dropping(tmp_path: Path) -> None:
    rows = [sat_row(n, image_bytes=[picture(n)] * (1 + n % 2)) for n in range(20)]
    source = write_sat(tmp_path / "SAT_train.parquet", rows)
    out = tmp_path / "rows.parquet"
    assert main(["--source", str(source), "--out", str(out), "--limit", "15"]) == 0
    assert [sample.id for sample in read_rows(out)] == [f"sat-train-{n}" for n in range(1, 16, 2)]
    assert read_counts(out)["dropped"] == {"more than 1 image": 7}
    assert main(["--source", str(source), "--out", str(out), "--limit", "15", "--max-images", "2"]) == 0
    assert [len(sample.images) for sample in read_rows(out)] == [1, 2] * 7 + [1]


def test_options_with_commas_stay_whole(tmp_path: Path) -> None:
    """The published preparation splits ``left, near the door`` in two, and the gold answer is no option any more."""
    options = ["left, near the door", "right [far]", 'it\'s "there"']
    rows = [sat_row(answers=options, correct_answer=options[0]), sat_row(answers=options, correct_answer=options[2])]
    assert main(["--source", str(write_sat(tmp_path / "a.parquet", rows)), "--out", str(tmp_path / "b.parquet")]) == 0
    samples = read_rows(tmp_path / "b.parquet")
    assert [sorted(sample.meta["options"]) for sample in samples] == [sorted(options)] * 2
    assert [sample.answer for sample in samples] == [options[0], options[2]]
    assert all("; or " in sample.question for sample in samples)


def test_bytes_that_the_published_pattern_cuts_are_whole(tmp_path: Path) -> None:
    """The published preparation ends a picture at its first FFD9, here that of a thumbnail within it."""
    whole = picture(3)
    thumbnail = b"\xff\xe1" + (2 + len(picture(1, (8, 8)))).to_bytes(2, "big") + picture(1, (8, 8))
    content = whole[:2] + thumbnail + whole[2:]
    rows = [sat_row(image_bytes=[content])]
    assert main(["--source", str(write_sat(tmp_path / "a.parquet", rows)), "--out", str(tmp_path / "b.parquet")]) == 0
    assert read_rows(tmp_path / "b.parquet")[0].images == (content,)


def test_bad_rows_are_counted(tmp_path: Path) -> None:
    rows = [
        sat_row(),
        sat_row(correct_answer="middle"),
        sat_row(correct_answer=None),
        sat_row(answers=["left", "left"]),
        sat_row(answers=[]),
        sat_row(answers=["left", None]),
        sat_row(image_bytes=[]),
        sat_row(image_bytes=[picture()[:400]]),
    ]
    out = tmp_path / "b.parquet"
    assert main(["--source", str(write_sat(tmp_path / "a.parquet", rows)), "--out", str(out)]) == 0
    assert len(read_rows(out)) == 1
    assert read_counts(out)["dropped"] == {
        "the answer is not valid for its task": 2,
        "a field cannot be read": 3,
        "no image": 1,
        "an image cannot be opened": 1,
    }


def test_images_of_another_type_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pyarrow.table({**{name: ["left"] for name in COLUMNS}, "image_bytes": [7]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert main(["--source", str(tmp_path / "a.parquet"), "--out", str(tmp_path / "b.parquet")]) == 2
    assert lines_naming(capsys.readouterr().err, "a.parquet", "row 1", "image_bytes", "int")


@pytest.mark.parametrize("number", ["0", "-1", "two"])
def test_max_images_is_a_number_above_0(tmp_path: Path, capsys: pytest.CaptureFixture[str], number: str) -> None:
    source = write_sat(tmp_path / "a.parquet", [sat_row()])
    assert main(["--source", str(source), "--out", str(tmp_path / "b.parquet"), "--max-images", number]) == 2
    assert "--max-images" in capsys.readouterr().err
