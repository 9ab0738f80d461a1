"""Text files of rows: lines, lists and cells, packed or not."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pytest

from gpg_vl.data.sources import load_source
from tests.support.kit_rows import kit_row, save_png
from tests.support.messages import naming

LINES = "".join(json.dumps(kit_row(n)) + "\n" for n in range(3)).encode()
CELLS = b'image,question,answer,level\n1.png,"How many, and why?",3,2\n1.png,"Say ""4"".\nNow.",4,\n'


def write(path: Path, content: bytes) -> str:
    save_png(path.with_name("1.png"))
    path.write_bytes(content)
    return str(path)


def test_a_line_without_text_is_no_row(tmp_path: Path) -> None:
    first, second, third = LINES.splitlines()
    path = write(tmp_path / "rows.jsonl", b"\n".join([b"", first, b"  ", second, b"", b"{", third, b"", b""]))
    samples = load_source(path).samples
    assert [samples[n].id for n in (0, 1, 3)] == ["r0", "r1", "r2"] and len(samples) == 4
    with pytest.raises(ValueError, match=naming("rows.jsonl", "row 3", "line 6", "JSON")):
        samples[2]


@pytest.mark.parametrize("limit", [1, 2, None])
def test_csv_beside_pictures(tmp_path: Path, limit: int | None) -> None:
    path = write(tmp_path / "rows.csv", CELLS)
    source = load_source(path, task="counting", limit=limit)
    sample = source.samples[0]
    assert (sample.question, sample.answer, sample.meta) == ("How many, and why?", "3", {"level": "2"})
    assert sample.images == (str(tmp_path / "1.png"),)
    assert "CSV" in source.reading and len(source.samples) == (limit or 2)
    if limit != 1:
        assert (source.samples[1].question, source.samples[1].meta) == ('Say "4".\nNow.', {"level": None})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.tsv", b"image\tquestion\tanswer\n1.png\tHow many?\t3\n"),
        ("rows.csv", b"image;question;answer\r\n1.png;How many?;3\r\n"),
        ("rows.csv", b"\xef\xbb\xbfimage,question,answer\r\n\r\n1.png,How many?,3\r\n"),
        ("rows.csv", b'images,question,answer\n"[""1.png""]",How many?,3\n'),
        ("rows.csv", b"file_name,problem,solution\n1.png,How many?,<answer>3</answer>\n"),
    ],
)
def test_cells_are_separated_as_spreadsheets_do(tmp_path: Path, name: str, content: bytes) -> None:
    sample = load_source(write(tmp_path / name, content), task="counting").samples[0]
    assert (sample.question, sample.answer, sample.images) == ("How many?", "3", (str(tmp_path / "1.png"),))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"image,question,answer\n1.png,How many?,3\n1.png,a,b,c\n", ["row 2", "line 3", 4, 3]),
        (b"image,question,answer\n1.png,How many?,3\n,How many?,3\n", ["row 2", "images", "null"]),
        (b"image,question,answer\n1.png,How many?,3\n1.png,How many?,\n", ["row 2", "answer", "missing"]),
        (b"image,answer,answer\n1.png,3,3\n", ["answer"]),
        (b"image,question,answer\n1.png,caf\xe9,3\n", ["UTF-8"]),
        (b"image,question,answer\n", ["rows"]),
    ],
)
def test_bad_cells(tmp_path: Path, content: bytes, named: list[object]) -> None:
    with pytest.raises(ValueError, match=naming(tmp_path / "rows.csv", *named)) as caught:
        list(load_source(write(tmp_path / "rows.csv", content), task="counting").samples)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b'[{"id": 1}, 7]', ["row 2", "int"]),
        (b"[7]", ["entry 1", "int"]),
        (b'[{"id": 1},', ["line 1", "JSON"]),
        (b'[{"id": 1}, {"id": 2, "question": "\\ud83d"}]', ["row 2", "surrogate"]),
    ],
)
def test_bad_lists(tmp_path: Path, content: bytes, named: list[object]) -> None:
    start = content.replace(b'{"id": 1}', json.dumps(kit_row(1)).encode())
    with pytest.raises(ValueError, match=naming(tmp_path / "rows.json", *named)):
        list(load_source(write(tmp_path / "rows.json", start)).samples)


@pytest.mark.parametrize("end", [".gz", ".zst"])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv"])
def test_packed_files(tmp_path: Path, name: str, end: str) -> None:
    content = {"rows.jsonl": LINES, "rows.csv": CELLS}.get(name) or b"[" + b",".join(LINES.splitlines()) + b"]"
    packed = gzip.compress(content) if end == ".gz" else pyarrow.compress(content, "zstd", asbytes=True)
    plain = load_source(write(tmp_path / name, content), task="counting").samples
    samples = load_source(write(tmp_path / (name + end), packed), task="counting").samples
    assert [sample.question for sample in samples] == [sample.question for sample in plain]
    assert [sample.images for sample in samples] == [sample.images for sample in plain]
    for damaged in (packed[: len(packed) // 2], b"no packing at all"):
        with pytest.raises(ValueError, match=naming(tmp_path / (name + end))):
            load_source(write(tmp_path / (name + end), damaged), task="counting")


def test_a_packed_file_that_does_not_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(LINES * 1000))
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=3 * 1000 * len(LINES)))
    with pytest.raises(ValueError, match=naming(path, 750 * len(LINES))):
        load_source(str(path))
