"""WebDataset shards as its writers make them."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from gpg_vl.data.shards import find_shards
from gpg_vl.data.sources import load_source
from tests.support.kit_rows import png
from tests.support.messages import naming

COLOURS = ("red", "green", "blue", "white")


def shard(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def text(**row: Any) -> bytes:
    return json.dumps(row).encode()


def write_shards(folder: Path, num: int = 2) -> None:
    """Two rows each; the JSON names its picture as it was called before."""
    folder.mkdir(exist_ok=True)
    for number in range(num):
        members: dict[str, bytes] = {}
        for row in range(2):
            key = f"part/{row:06d}"
            members[f"{key}.png"] = png(COLOURS[2 * number + row])
            members[f"{key}.json"] = text(image="old/name.jpg", question="How many?", answer=2 * number + row)
        (folder / f"train-{number:03d}.tar").write_bytes(shard(members))


@pytest.mark.parametrize("path", ["shards", "shards/train-{000..001}.tar", "shards/train-*.tar"])
def test_shards_are_one_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.chdir(tmp_path)
    write_shards(tmp_path / "shards")
    source = load_source(path, task="counting")
    assert [sample.answer for sample in source.samples] == ["0", "1", "2", "3"]
    assert [sample.images for sample in source.samples] == [(png(colour),) for colour in COLOURS]
    assert source.samples[3].id == f"{path}:4" and source.samples[3].meta == {"__key__": "part/000001"}
    assert "WebDataset" in source.reading
    assert len(load_source(path, task="counting", limit=3).samples) == 3


@pytest.mark.parametrize("end", [".tar", ".tar.gz", ".tgz", ".tar.zst"])
def test_packed_shards_of_another_shape(tmp_path: Path, end: str) -> None:
    turns = [{"from": "human", "value": "<image><image>How many?"}, {"from": "gpt", "value": "3"}]
    content = shard({"a.0.png": png(), "a.1.PNG": png("blue"), "a.json": text(conversations=turns), "b/": b""})
    packed = {".tar": bytes, ".tar.zst": lambda each: pyarrow.compress(each, "zstd", asbytes=True)}
    (tmp_path / f"x{end}").write_bytes(packed.get(end, gzip.compress)(content))
    source = load_source(str(tmp_path / f"x{end}"), task="counting")
    sample = source.samples[0]
    assert (sample.question, sample.answer) == ("<image><image>How many?", "3")
    assert sample.images == (png(), png("blue"))
    assert "LLaVA" in source.reading


def test_texts_are_columns(tmp_path: Path) -> None:
    members = {"1.png": png(), "1.question.txt": b"How many?\n", "1.cls": b"3", "1.npy": b"\x93NUMPY"}
    (tmp_path / "x.tar").write_bytes(shard(members))
    entry = {"path": str(tmp_path / "x.tar"), "columns": {"answer": "cls"}}
    sample = load_source(entry, task="counting").samples[0]
    assert (sample.question, sample.answer, sample.meta) == ("How many?", "3", {"__key__": "1"})


@pytest.mark.parametrize(
    ("members", "named"),
    [
        (
            {"1.json": text(question="?", answer="3"), "2.json": text(question="?", answer="3"), "2.png": png()},
            ["row 1"],
        ),
        ({"1.json": b"{", "1.png": png(), "2.json": text(question="?", answer="3"), "2.png": png()}, ["row 1", "JSON"]),
        ({"1.json": text(question="?", answer="3"), "1.png": png(), "2.txt": b"\xff"}, ["row 2", "UTF-8"]),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, members: dict[str, bytes], named: list[str]) -> None:
    (tmp_path / "x.tar").write_bytes(shard(members))
    with pytest.raises(ValueError, match=naming(tmp_path / "x.tar", *named)):
        list(load_source(str(tmp_path / "x.tar"), task="counting").samples)


def test_damaged_shards(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards", 1)
    path = tmp_path / "shards/train-000.tar"
    content = path.read_bytes()
    for damaged in (b"no tar file" * 100, content[:700]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=naming(path)):
            load_source(str(path), task="counting")
    with pytest.raises(ValueError, match=naming("train-001.tar")):
        find_shards(str(tmp_path / "shards/train-{000..001}.tar"))
    for endless in ("{000..99999999999999999999}", "{002..001}"):
        with pytest.raises(ValueError, match=naming("shards", "range")):
            find_shards(str(tmp_path / f"shards/train-{endless}.tar"))


def test_members_that_are_no_files_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png())
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        entry = tarfile.TarInfo("1.png")
        entry.type, entry.linkname = tarfile.SYMTYPE, str(tmp_path / "secret.png")
        archive.addfile(entry)
        entry = tarfile.TarInfo("1.json")
        entry.size = len(text(question="?", answer="3"))
        archive.addfile(entry, io.BytesIO(text(question="?", answer="3")))
    with pytest.raises(ValueError, match=naming("x.tar", "images")):
        load_source(str(tmp_path / "x.tar"), task="counting")
