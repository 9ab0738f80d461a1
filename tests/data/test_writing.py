"""Samples -> a file of kit rows, complete or not there at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import pytest

from gpg_vl.data.images import open_image
from gpg_vl.data.sources import load_source, write_jsonl, write_parquet
from gpg_vl.records import Sample
from tests.support.kit_rows import demo_samples, png, save_png
from tests.support.messages import naming


def test_parquet_holds_whole_samples(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.parquet"
    write_parquet(demo_samples(png()), path)
    source = load_source(str(path))
    assert (source.name, source.weight, len(source.samples)) == (str(path), 1.0, 3)
    assert list(source.samples) == demo_samples(png())
    assert datasets.Dataset.from_parquet(str(path))[0]["images"][0].size == (8, 8)


def test_parquet_takes_image_files_in(tmp_path: Path) -> None:
    picture = save_png(tmp_path / "picture.png")
    write_parquet(demo_samples(str(picture)), tmp_path / "rows.parquet")
    picture.unlink()
    assert list(load_source(str(tmp_path / "rows.parquet")).samples) == demo_samples(png())


def test_what_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    for value, named in (({"x": b"1"}, ["bytes", "JSON"]), ({"x": {(1, 2): 3}}, ["TypeError", "JSON"])):
        for name in ("rows.jsonl", "rows.parquet"):
            with pytest.raises(ValueError, match=naming(*named)):
                (write_jsonl if name == "rows.jsonl" else write_parquet)(
                    [Sample("a", "counting", (), "?", "4", value)], tmp_path / name
                )


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl"])
def test_a_file_is_complete_or_the_earlier_one(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write = write_parquet if path.suffix == ".parquet" else write_jsonl

    def broken() -> Iterator[Sample]:
        yield from demo_samples(png()) * 200
        raise ValueError("the source broke off")

    with pytest.raises(ValueError, match="broke off"):
        write(broken(), path)
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == []
    write(demo_samples(png()), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="broke off"):
        write(broken(), path)
    assert path.read_bytes() == before


def test_two_writers_leave_a_whole_file(tmp_path: Path) -> None:
    """Parquet holds all that a row has; beside JSON lines there are images, so that a second writer is refused."""

    def rows(name: str, path: Path, then: Callable[[], object]) -> Iterator[Sample]:
        for number in range(250):
            yield Sample(f"{name}{number}", "counting", (png(),), name, "4")
            if number == 120:
                then()

    def nothing() -> None:
        pass

    path = tmp_path / "rows.parquet"
    write_parquet(rows("first", path, lambda: write_parquet(rows("second", path, nothing), path)), path)
    samples = load_source(str(path)).samples
    assert [sample.question for sample in samples] == ["first"] * 250
    path = tmp_path / "rows.jsonl"

    def second() -> None:
        with pytest.raises(ValueError, match=naming(path, "process")):
            write_jsonl(rows("second", path, nothing), path)

    write_jsonl(rows("first", path, second), path)
    samples = load_source(str(path)).samples
    assert [sample.question for sample in samples] == ["first"] * 250
    assert open_image(samples[249].images[0]).size == (8, 8)
    assert {each.name for each in tmp_path.iterdir()} == {"rows.parquet", "rows.jsonl", "rows_images"}
