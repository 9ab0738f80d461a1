"""A file is opened where it was found: nothing that took the place of a folder since leads elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gpg_vl.data.images import BadImage, open_image, read_image_file
from gpg_vl.data.plain_files import read_plain_file
from gpg_vl.data.sources import load_source, write_jsonl, write_parquet
from tests.support.kit_rows import kit_row, png, save_png, write_lines
from tests.support.messages import naming


def test_a_file_is_read_up_to_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "sub/a"
    path.parent.mkdir()
    path.write_bytes(b"0123456789")
    assert read_plain_file(str(path), 10) == b"0123456789"
    assert len(read_plain_file(str(path), 5)) == 6
    num_open = len(os.listdir("/proc/self/fd"))
    for other in ("sub/b", "none/a", "sub/a/b", "sub"):
        with pytest.raises(OSError, match=r"No such file|link|not an ordinary file"):
            read_plain_file(str(tmp_path / other), 10)
    assert len(os.listdir("/proc/self/fd")) == num_open


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(BadImage, match=naming(path)):
            open_image(str(path))


@pytest.mark.parametrize("swap", ["folder", "file", "parent"])
def test_a_link_that_came_after_the_check_is_not_followed(tmp_path: Path, swap: str) -> None:
    save_png(tmp_path / "top/t/sub/x.png", "red")
    save_png(tmp_path / "out/x.png", "blue")
    save_png(tmp_path / "out/sub/x.png", "blue")
    rows = write_lines(tmp_path / "top/t/rows.jsonl", kit_row(images=["sub/x.png"]))
    sample = load_source(rows).samples[0]
    [found] = sample.images
    assert isinstance(found, str) and open_image(found).getpixel((0, 0)) == (255, 0, 0)
    place = {"folder": tmp_path / "top/t/sub", "file": tmp_path / "top/t/sub/x.png", "parent": tmp_path / "top/t"}[swap]
    place.rename(tmp_path / "moved")
    place.symlink_to({"file": tmp_path / "out/x.png"}.get(swap, tmp_path / "out"))
    for read in (open_image, read_image_file):
        with pytest.raises(BadImage, match=naming(found)):
            read(found)
    for write, name in ((write_parquet, "a.parquet"), (write_jsonl, "other/a.jsonl")):
        with pytest.raises(ValueError, match=naming(found)):
            write([sample], tmp_path / name)


def test_links_that_were_there_lead_where_they_led(tmp_path: Path) -> None:
    """A path is resolved when a row is read; links inside of the root are a way to lay out pictures."""
    save_png(tmp_path / "real/x.png")
    (tmp_path / "sub").symlink_to("real")
    rows = write_lines(tmp_path / "rows.jsonl", kit_row(images=["sub/x.png"]))
    [found] = load_source(rows).samples[0].images
    assert isinstance(found, str) and open_image(found).size == open_image(png()).size
