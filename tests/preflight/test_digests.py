"""What a resumed run must find again in its rows."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.config import DataConfig, Recipe
from gpg_vl.preflight.digests import find_change
from gpg_vl.preflight.sources import CheckedSources, check_same_rows, load_sources
from tests.support.kit_rows import png, save_png, write_lines
from tests.support.messages import naming

ROW = {
    "id": "r1",
    "task": "choice",
    "images": ["1.png"],
    "question": "Which?",
    "answer": "A",
    "meta": {"options": ["left", "right"]},
}


def load(folder: Path, *rows: dict[str, Any], policy: Any = "fail", entry: Any = None) -> CheckedSources:
    if rows:
        write_lines(folder / "rows.jsonl", *rows)
    recipe = Recipe(data=DataConfig(on_bad_image=policy))
    return load_sources([entry or str(folder / "rows.jsonl")], recipe, "data.train", policy == "fail")


def digest(folder: Path, *rows: dict[str, Any], **keys: Any) -> str:
    return load(folder, *rows, **keys).digests[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"meta": {"options": ["right", "left"]}},
        {"meta": {"options": ["left", "right"], "level": 2}},
        {"level": 2},
        {"task": "classification"},
        {"question": "Which one?"},
        {"answer": "B"},
        {"id": "r2"},
        {"images": ["2.png"]},
        {"images": ["1.png", "1.png"]},
        {"images": []},
    ],
)
def test_every_field_of_a_row_is_pinned(tmp_path: Path, changes: dict[str, Any]) -> None:
    for name in ("1.png", "2.png"):
        save_png(tmp_path / name)
    then = digest(tmp_path, ROW)
    assert find_change(digest(tmp_path, ROW), then) is None
    assert find_change(digest(tmp_path, ROW | changes), then) == "rows"
    with pytest.raises(ValueError, match=naming("data.train", "rows.jsonl", "rows", "run.output_dir")):
        check_same_rows(load(tmp_path, ROW | changes), [then])


def test_the_order_of_rows_is_pinned(tmp_path: Path) -> None:
    save_png(tmp_path / "1.png")
    rows = [ROW, ROW | {"id": "r2"}]
    assert find_change(digest(tmp_path, *rows), digest(tmp_path, *rows[::-1])) == "rows"


def repaint(path: Path) -> None:
    """Another picture of the same size, with the same times."""
    stat = path.stat()
    path.write_bytes(png("blue").ljust(100, b"\0"))
    assert path.stat().st_size == stat.st_size
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("change", [repaint, Path.unlink])
def test_images_are_pinned_by_content_unless_they_may_be_lost(tmp_path: Path, change: Callable[[Path], None]) -> None:
    picture = save_png(tmp_path / "1.png")
    picture.write_bytes(png().ljust(100, b"\0"))
    then, lenient = digest(tmp_path, ROW), digest(tmp_path, ROW, policy="skip")
    change(picture)
    if picture.exists():
        now = load(tmp_path, ROW)
        assert find_change(now.digests[0], then) == "images"
        with pytest.raises(ValueError, match=naming("data.train", "rows.jsonl", "images", "run.output_dir")):
            check_same_rows(now, [then])
        check_same_rows(now, [lenient])
    for earlier in (then, lenient):
        assert find_change(digest(tmp_path, ROW, policy="skip"), earlier) is None


def test_a_moved_folder_has_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows without ids are named by file and number, which are no part of them."""
    row = {"image": "1.png", "question": "How many?", "answer": "4", "task": "counting"}
    digests = []
    for name in ("here", "there"):
        save_png(tmp_path / name / "1.png")
        digests.append(digest(tmp_path / name, row))
    monkeypatch.chdir(tmp_path / "here")
    digests.append(load(tmp_path, entry="rows.jsonl").digests[0])
    assert len({each.rpartition(":")[0] for each in digests}) == 1


def test_a_digest_of_an_earlier_version_is_still_compared(tmp_path: Path) -> None:
    save_png(tmp_path / "1.png")
    then = hashlib.blake2b(repr(("r1", "Which?", "A", 1)).encode(), digest_size=16).hexdigest()
    assert find_change(digest(tmp_path, ROW), then) is None
    assert find_change(digest(tmp_path, ROW | {"answer": "B"}), then) == "rows"


def test_how_rows_are_read_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_png(tmp_path / "1.png")
    row = {"images": ["1.png"], "problem": "<image>How many?", "answer": "4", "task": "counting"}
    load(tmp_path, row, row)
    assert capsys.readouterr().err.count("EasyR1") == 1
    load(tmp_path, ROW)
    assert capsys.readouterr().err == ""
    assert json.loads((tmp_path / "rows.jsonl").read_text(encoding="utf-8")) == ROW


def test_videos_count_by_name_rate_and_content(tmp_path: Path) -> None:
    for name in ("1.png", "2.png"):
        save_png(tmp_path / name)
    (tmp_path / "1.mp4").write_bytes(b"one")
    (tmp_path / "2.mp4").write_bytes(b"one")
    rows = (
        ["1.mp4"],
        ["2.mp4"],
        [["1.png", "2.png"]],
        [{"frames": ["1.png", "2.png"], "fps": 2}],
        [["2.png", "1.png"]],
    )
    found = [digest(tmp_path, {**ROW, "videos": videos}) for videos in rows]
    assert len({each.split(":")[1] for each in [*found, digest(tmp_path, ROW)]}) == 6
    assert digest(tmp_path, {**ROW, "videos": []}) == digest(tmp_path, ROW)
    (tmp_path / "1.mp4").write_bytes(b"another")
    assert find_change(digest(tmp_path, {**ROW, "videos": ["1.mp4"]}), found[0]) == "images"


def test_a_missing_video_is_named(tmp_path: Path) -> None:
    save_png(tmp_path / "1.png")
    with pytest.raises(ValueError, match=naming("row 1", "cannot open video", str(tmp_path / "gone.mp4"))):
        digest(tmp_path, {**ROW, "videos": ["gone.mp4"]})
    with pytest.raises(ValueError, match=naming("row 1", str(tmp_path / "gone.png"))):
        digest(tmp_path, {**ROW, "videos": [["1.png", "gone.png"]]})
