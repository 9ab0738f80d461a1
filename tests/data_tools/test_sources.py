"""Where rows come from: files, folders, the hub's own cache; and the images that rows name."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from huggingface_hub import constants

from data_tools import clevr
from data_tools.image_files import ImageFiles
from data_tools.published_files import picture, write_image_rows, write_zip
from data_tools.sources import decode_text, find_files, read_json_lines, read_parquet
from tests.support.converted import read_rows
from tests.support.messages import lines_naming, naming


def write_hub_cache(cache: Path, name: str, files: dict[str, bytes]) -> None:
    """A data set in the hub client's cache, as after a download."""
    folder = cache / f"datasets--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text("0" * 40, encoding="utf-8")
    for file, content in files.items():
        target = folder / "snapshots" / ("0" * 40) / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def test_a_data_set_of_the_hub_is_read_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"image": 1, "problem": "How many?", "solution": "<answer> 4 </answer>"}
    content = write_image_rows(tmp_path / "a.parquet", [row]).read_bytes()
    files = {"data/train-00000-of-00001.parquet": content, "README.md": b"# CLEVR"}
    write_hub_cache(tmp_path / "cache", "leonardPKU/clevr_cogen_a_train", files)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert clevr.main(["--out", str(tmp_path / "rows.parquet")]) == 0  # the published name is the default
    assert read_rows(tmp_path / "rows.parquet")[0].answer == "4"
    with pytest.raises(ValueError, match=naming("nobody/none", "hub")) as no:
        find_files("nobody/none", "*.parquet")
    assert "\n" not in str(no.value)


def test_missing_and_damaged_sources(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    (tmp_path / "empty").mkdir()
    for source, named in (
        (tmp_path / "none.parquet", []),
        ("../none", []),
        (tmp_path / "a.parquet", ["Parquet"]),
        (tmp_path / "empty", ["*.parquet"]),
    ):
        with pytest.raises(ValueError, match=naming(source, *named)) as caught:
            read_parquet(str(source), ["image"])
        assert "\n" not in str(caught.value)
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n\n[1]\n')
    rows = read_json_lines(str(tmp_path / "a.jsonl"))
    assert next(rows).values == {"a": 1}
    with pytest.raises(ValueError, match=naming("a.jsonl", "line 3", "list")):
        next(rows)


def test_a_damaged_page_is_named_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The footer is whole, so the file opens; the bytes of a later row group are not what it says."""
    rows = {"image": [{"bytes": picture(n)} for n in range(40)], "problem": ["?"] * 40, "solution": ["<answer>4"] * 40}
    source = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table(rows), source, row_group_size=20, compression="zstd")
    place = pyarrow.parquet.read_metadata(source).row_group(1).column(0).data_page_offset
    content = bytearray(source.read_bytes())
    content[place : place + 200] = bytes(200)
    source.write_bytes(content)
    assert clevr.main(["--source", str(source), "--out", str(tmp_path / "rows.parquet")]) == 2
    error = capsys.readouterr().err
    assert lines_naming(error, "error", "a.parquet", "row 16") == error.splitlines()
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_text_is_utf_8_or_cp1252() -> None:
    assert [decode_text("’é".encode(code)) for code in ("utf-8", "utf-8-sig", "cp1252")] == ["’é"] * 3
    with pytest.raises(UnicodeDecodeError):
        decode_text(b"\x81")


@pytest.mark.parametrize("name", ["./Geo170K/images/test/0.png", "images/test/0.png", "test/0.png", "0.png"])
def test_images_are_found_wherever_they_were_unpacked(tmp_path: Path, name: str) -> None:
    target = tmp_path / "Geo170K/images/test/0.png"
    target.parent.mkdir(parents=True)
    target.write_bytes(picture())
    assert ImageFiles(str(tmp_path / "Geo170K/images/test")).find(name) == str(target.resolve())
    archive = write_zip(tmp_path / "images.zip", {"images/test/0.png": picture(3), "images/test/": b""})
    assert ImageFiles(str(archive)).find(name) == picture(3)


def test_images_stay_in_their_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(picture())
    (tmp_path / "images").mkdir()
    os.symlink(tmp_path / "secret.png", tmp_path / "images/link.png")
    os.symlink("loop", tmp_path / "images/loop")
    images = ImageFiles(str(tmp_path / "images"))
    for name in (
        "../secret.png",
        "a/../../secret.png",
        "..\\secret.png",
        "link.png",
        str(tmp_path / "secret.png"),
        ".",
        "/",
    ):
        with pytest.raises(ValueError, match=naming("image", tmp_path / "images")):
            images.find(name)
    for name, named in (("x" * 300, "x" * 80), ("zero\0byte.png", r"zero\x00byte.png"), ("loop/x.png", "loop/x.png")):
        with pytest.raises(ValueError, match=naming("image", named)):
            images.find(name)
    archive = write_zip(tmp_path / "images.zip", {"a/0.png": picture(1), "b/0.png": picture(2)})
    with pytest.raises(ValueError, match=naming("0.png", "images.zip")):
        ImageFiles(str(archive)).find("0.png")
