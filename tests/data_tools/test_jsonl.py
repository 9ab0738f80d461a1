"""Rows of a user's own: columns mapped, bad rows counted, mistakes in one line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from data_tools.jsonl import main
from data_tools.published_files import picture, write_image_rows, write_lines
from gpg_vl.data import media_files
from gpg_vl.data.downloads import check_url
from tests.support.converted import read_counts, read_rows
from tests.support.messages import lines_naming

COLUMNS = ["--columns", "question=problem", "answer=solution", "images=picture"]


def own_row(**changes: Any) -> dict[str, Any]:
    return {"picture": "a.jpg", "problem": "How many?", "solution": "4", "level": 2} | changes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.jpg").write_bytes(picture(1))
    (tmp_path / "b.jpg").write_bytes(picture(2))
    return tmp_path


def test_columns_are_mapped(folder: Path) -> None:
    rows = [own_row(), own_row(picture=["a.jpg", "b.jpg"], solution=7), own_row(solution="<answer> 3 </answer>")]
    write_lines(folder / "mine.jsonl", rows)
    (folder / "mine.json").write_text(json.dumps(rows))
    out = folder / "out/rows.parquet"
    for name in ("mine.jsonl", "mine.json"):
        assert main(["--source", str(folder / name), "--task", "counting", *COLUMNS, "--out", str(out)]) == 0
        samples = read_rows(out)
        assert [sample.answer for sample in samples] == ["4", "7", "3"]
        assert samples[1].images == (picture(1), picture(2))
        assert [sample.id for sample in samples] == ["mine:1", "mine:2", "mine:3"]
        assert samples[0].meta == {"level": 2}


def test_parquet_and_rows_of_several_tasks(folder: Path) -> None:
    source = write_image_rows(folder / "mine.parquet", [{"image": 3, "problem": "How many?", "solution": "4"}])
    words = ["--columns", "question=problem", "answer=solution", "--task", "counting"]
    assert main(["--source", str(source), *words, "--out", str(folder / "rows.jsonl")]) == 0
    assert read_rows(folder / "rows.jsonl")[0].answer == "4"
    kit = {"id": "k", "task": "counting", "images": ["a.jpg"], "question": "How many?", "answer": "4"}
    other = kit | {"id": "m", "task": "grounding", "question": "Where?", "answer": [1, 2, 30, 40]}
    source = write_lines(folder / "kit.jsonl", [kit, other])
    assert main(["--source", str(source), "--out", str(folder / "rows.parquet")]) == 0
    assert [sample.task for sample in read_rows(folder / "rows.parquet")] == ["counting", "grounding"]


def test_bad_rows_are_counted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    secret = tmp_path_factory.mktemp("elsewhere") / "secret.jpg"
    secret.write_bytes(picture())
    (folder / "link.jpg").symlink_to(secret)
    kit = {"id": "1", "task": "counting", "images": ["a.jpg"], "question": "How many?", "answer": "4"}
    bad: list[dict[str, Any]] = [
        kit,  # the id is repeated
        kit | {"id": "2", "answer": ""},
        kit | {"id": "3", "question": "x" * 1_000_000},
        {"id": "4", "task": "counting", "image": "a.jpg", "problem": "other columns", "solution": "4"},
        kit | {"id": "5", "schema_version": 2},
        kit | {"id": "6", "images": ["link.jpg"]},
        kit | {"id": "7", "images": ["../../etc/passwd"]},
        kit | {"id": "8", "images": ["http://169.254.169.254/a.jpg"]},
        kit | {"id": "9", "task": "grounding", "answer": [0, 0, 500, 500]},
        kit | {"id": "10", "answer": "four"},
        kit | {"id": "11", "task": "countin"},
    ]
    source = write_lines(folder / "mine.jsonl", [kit, *bad])
    assert main(["--source", str(source), "--out", str(folder / "rows.parquet")]) == 0
    assert len(read_rows(folder / "rows.parquet")) == 1
    counts = read_counts(folder / "rows.parquet")
    assert counts["dropped"] == {
        "a field cannot be read": 7,
        "the id is repeated": 1,
        "the answer is not valid for its task": 2,
        "there is no such task": 1,
    }


def test_urls_of_a_named_host_are_fetched_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []

    def fetch(url: str, hosts: Collection[str], *limits: float) -> bytes:
        check_url(url, hosts)
        fetched.append(url)
        return picture(int(url.removesuffix(".png")[-1]))

    monkeypatch.setattr(media_files, "download", fetch)
    urls = ["https://pictures.test/1.png", "https://other.test/2.png", "https://pictures.test/3.png"]
    source = write_lines(folder / "mine.jsonl", [own_row(picture=["a.jpg", url]) for url in urls])
    words = ["--source", str(source), "--task", "counting", *COLUMNS, "--image-hosts", "pictures.test", "--out"]
    for out in (folder / "rows.parquet", folder / "rows.jsonl"):
        assert main([*words, str(out)]) == 0
        assert read_counts(out)["dropped"] == {"a field cannot be read": 1}
    assert [sample.images for sample in read_rows(folder / "rows.parquet")] == [
        (picture(1), picture(1)),
        (picture(1), picture(3)),
    ]
    assert sorted(path.read_bytes() for path in (folder / "rows_images").iterdir()) == sorted([picture(1), picture(3)])
    assert sorted(fetched) == sorted(2 * [urls[0], urls[2]])


def test_a_url_that_does_not_answer_is_counted(folder: Path) -> None:
    rows = [own_row(), own_row(picture="http://127.0.0.1/a.png")]
    source = write_lines(folder / "mine.jsonl", rows)
    words = ["--source", str(source), "--task", "counting", *COLUMNS, "--image-hosts", "127.0.0.1"]
    assert main([*words, "--out", str(folder / "rows.parquet")]) == 0
    counts = read_counts(folder / "rows.parquet")
    assert counts["dropped"] == {"an image cannot be opened": 1}
    assert lines_naming(counts["dropped_rows"][0], "127.0.0.1", "private")


@pytest.mark.parametrize("name", ["mine.csv", "mine.tsv.gz", "mine.jsonl.zst"])
def test_files_that_are_opened_as_a_whole(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    cells = [["image", "problem", "solution"], ["a.jpg", "How many?", "4"], ["b.jpg", "How many?", "four"]]
    separator = "\t" if ".tsv" in name else ","
    text = "".join(separator.join(row) + "\n" for row in cells)
    if ".jsonl" in name:
        text = "".join(json.dumps(dict(zip(cells[0], row, strict=True))) + "\n" for row in cells[1:])
    content = text.encode()
    packed = {".gz": gzip.compress, ".zst": lambda each: pyarrow.compress(each, "zstd", asbytes=True)}
    (folder / name).write_bytes(packed.get(Path(name).suffix, bytes)(content))
    words = ["--source", str(folder / name), "--task", "counting", "--out", str(folder / "out/rows.parquet")]
    assert main(words) == 0
    assert [sample.images for sample in read_rows(folder / "out/rows.parquet")] == [(picture(1),)]
    assert read_counts(folder / "out/rows.parquet")["dropped"] == {"the answer is not valid for its task": 1}
    assert lines_naming(capsys.readouterr().out, name, "EasyR1", "problem", "solution")


def test_rows_of_another_shape_than_the_first_are_dropped(folder: Path) -> None:
    chat = {"messages": [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "4"}]}
    rows = [chat | {"images": ["a.jpg"]}, own_row(), chat | {"images": ["b.jpg"]}]
    source = write_lines(folder / "mine.jsonl", rows)
    assert main(["--source", str(source), "--task", "counting", "--out", str(folder / "out/rows.parquet")]) == 0
    assert [sample.id for sample in read_rows(folder / "out/rows.parquet")] == ["mine:1", "mine:3"]
    assert read_counts(folder / "out/rows.parquet")["dropped"] == {"a field cannot be read": 1}


def test_several_columns_of_images(folder: Path) -> None:
    source = write_lines(folder / "mine.jsonl", [{"left": "a.jpg", "right": "b.jpg", "question": "?", "answer": "4"}])
    words = ["--source", str(source), "--task", "counting", "--columns", "images=left,right"]
    assert main([*words, "--out", str(folder / "out/rows.parquet")]) == 0
    assert read_rows(folder / "out/rows.parquet")[0].images == (picture(1), picture(2))


def test_cp1252_lines_are_read(folder: Path) -> None:
    source = write_lines(folder / "mine.jsonl", [own_row(problem="Wie viele Äpfel?")], encoding="cp1252")
    out = folder / "rows.parquet"
    assert main(["--source", str(source), "--task", "counting", *COLUMNS, "--out", str(out)]) == 0
    assert read_rows(out)[0].question == "Wie viele Äpfel?"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--columns", "anser=x"], ["--columns", "anser=x", "FIELD=COLUMN"]),
        (["--columns", "answer"], ["--columns", "answer", "FIELD=COLUMN"]),
        (["--task", "countin"], ["countin", "counting"]),
        (["--image-root", "nowhere"], ["nowhere"]),
        (["--image-hosts", "https://pictures.test"], ["https://pictures.test"]),
        (["--out", "rows.csv"], ["rows.csv", ".parquet", ".jsonl"]),
        (["--limit", "0"], ["--limit"]),
        (["--source", "rows.csv"], ["rows.csv"]),
        (["--source", "none.jsonl"], ["none.jsonl"]),
    ],
)
def test_mistakes_are_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], named: list[str]
) -> None:
    source = write_lines(folder / "mine.jsonl", [own_row()])
    base = ["--source", str(source), "--task", "counting", "--out", str(folder / "out/rows.parquet")]
    assert main([*base, *words]) == 2
    error = capsys.readouterr().err
    assert lines_naming(error, *named) and error.count("\n") == 1, error
    assert not (folder / "out").exists()


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.json", "mine.parquet"])
def test_a_column_that_is_not_there_loses_no_images(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Else every row would be one without images, and train as such."""
    row = own_row(image=3, level="2")
    if name == "mine.parquet":
        write_image_rows(folder / name, [row])
    elif name == "mine.json":
        (folder / name).write_text(json.dumps([row]))
    else:
        write_lines(folder / name, [row])
    words = ["--columns", "question=problem", "answer=solution", "images=pictrue", "--task", "counting"]
    assert main(["--source", str(folder / name), *words, "--out", str(folder / "rows.parquet")]) == 2
    error = capsys.readouterr().err
    assert lines_naming(error, name, 1, "pictrue", "picture") and error.count("\n") == 1, error
    assert not (folder / "rows.parquet").exists()


def test_a_broken_line_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "mine.jsonl").write_text(json.dumps(own_row()) + '\n{"picture": \n')
    words = ["--source", str(folder / "mine.jsonl"), "--task", "counting", *COLUMNS]
    assert main([*words, "--out", str(folder / "rows.parquet")]) == 2
    assert lines_naming(capsys.readouterr().err, "mine.jsonl", "line 2", "JSON")
    assert not (folder / "rows.parquet").exists()
