"""Videos as rows have them; what is lost is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpg_vl.data.row_videos import read_videos
from gpg_vl.data.sources import load_source, write_jsonl, write_parquet
from gpg_vl.data.videos import FrameSampling, open_video
from gpg_vl.records import FrameList, Sample
from tests.support.builders import png
from tests.support.kit_rows import kit_row, save_png, write_lines
from tests.support.messages import naming
from tests.support.videos import Clip, mp4


def read(path: Path, columns: dict[str, Any] | None = None, **row: Any) -> Sample:
    lines = write_lines(path, {**kit_row(), "images": [], **row})
    return load_source({"path": lines, **({} if columns is None else {"columns": columns})}).samples[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "1.mp4").write_bytes(mp4())
    save_png(tmp_path / "1.png")
    return tmp_path


@pytest.mark.parametrize(
    "entry", ["1.mp4", {"video": "1.mp4"}, {"type": "video", "video": "1.mp4"}, {"bytes": None, "path": "1.mp4"},
              {"video_url": {"url": "1.mp4"}}]
)  # fmt: skip
def test_forms(folder: Path, entry: Any) -> None:
    for value in (entry, [entry, entry]):
        videos = read(folder / "rows.jsonl", videos=value).videos
        assert videos == (str(folder / "1.mp4"),) * (2 if isinstance(value, list) else 1)


def test_several_in_a_cell_of_a_table(folder: Path) -> None:
    """A list as JSON text, as images have it."""
    cells = ('"[""1.mp4"", ""1.mp4""]"', "[]", "1.mp4")
    lines = ["task,videos,question,answer", *(f"counting,{cell},?,1" for cell in cells)]
    (folder / "rows.csv").write_text("\n".join(lines))
    samples = load_source(str(folder / "rows.csv")).samples
    assert [sample.videos for sample in samples] == [(str(folder / "1.mp4"),) * num for num in (2, 0, 1)]
    for column in ("videos", "video"):
        assert read(folder / "rows.jsonl", **{column: '["1.mp4"]'}).videos == (str(folder / "1.mp4"),)


def test_bytes_are_a_video() -> None:
    assert read_videos([b"\0" * 9, {"bytes": b"1"}], None, ()) == (b"\0" * 9, b"1")


def test_frames_are_images_with_a_rate(folder: Path) -> None:
    image = str(folder / "1.png")
    expected = (FrameList((image, image)), FrameList((image,), 4), FrameList((image, image), 0.5))
    given = [["1.png", "1.png"], {"frames": ["1.png"], "fps": 4}, {"frames": ["1.png", {"path": "1.png"}], "fps": 0.5}]
    assert read(folder / "rows.jsonl", videos=given).videos == expected


def test_a_row_needs_no_images_beside_its_videos(folder: Path) -> None:
    for columns in ({"videos": ["1.mp4"]}, {"video": "1.mp4"}):
        lines = write_lines(folder / "rows.jsonl", {"task": "counting", "question": "?", "answer": "1", **columns})
        sample = load_source(lines).samples[0]
        assert sample.images == () and sample.videos == (str(folder / "1.mp4"),) and sample.meta == {}
    named = {"images": None, "videos": "film"}
    lines = write_lines(folder / "rows.jsonl", {"task": "counting", "question": "?", "answer": "1", "film": "1.mp4"})
    assert load_source({"path": lines, "columns": named}).samples[0].videos == (str(folder / "1.mp4"),)


def test_a_column_video_beside_images_stays_what_it_was(folder: Path) -> None:
    sample = read(folder / "rows.jsonl", video="notes")
    assert sample.videos == () and sample.meta["video"] == "notes"


@pytest.mark.parametrize("video", ["1.mp4", ["1.mp4"], {"path": "1.mp4"}])
@pytest.mark.parametrize("images", [[], ["1.png"]])
def test_a_column_video_beside_images_holds_videos(folder: Path, images: list[str], video: Any) -> None:
    sample = read(folder / "rows.jsonl", images=images, video=video)
    assert sample.videos == (str(folder / "1.mp4"),) and "video" not in sample.meta
    assert sample.images == tuple(str(folder / image) for image in images)
    inside = read(folder / "rows.jsonl", {"images": "seen.0"}, seen=[images], video=video)
    assert (inside.images, inside.videos) == (sample.images, sample.videos)


@pytest.mark.parametrize("video", [None, "", []])
def test_no_video_beside_images(folder: Path, video: Any) -> None:
    sample = read(folder / "rows.jsonl", images=["1.png"], video=video)
    assert sample.videos == () and sample.images == (str(folder / "1.png"),)


def test_a_video_that_the_question_asks_for_is_no_note(folder: Path) -> None:
    with pytest.raises(ValueError, match=naming("rows.jsonl", "row 1", "video", "elsewhere")):
        read(folder / "rows.jsonl", video="../elsewhere", question="<video>How many?")


def test_rows_with_an_image_among_rows_with_a_video(folder: Path) -> None:
    """As data sets of both have them; a row with neither may have lost its picture."""
    row = {"task": "counting", "question": "?", "answer": "1"}
    whole = {"image": None, "video": "1.mp4"}, {"image": "1.png", "video": None}
    rows = [{**row, **each} for each in ({"image": "1.png"}, {"video": "1.mp4"}, *whole, {})]
    samples = load_source(write_lines(folder / "rows.jsonl", *rows)).samples
    image, video = (str(folder / "1.png"),), (str(folder / "1.mp4"),)
    assert [(each.images, each.videos) for each in samples[:4]] == [(image, ()), ((), video), ((), video), (image, ())]
    with pytest.raises(ValueError, match=naming("row 5", "image")):
        samples[4]
    shown = {**row, **whole[0], "question": "<image> and <video>?"}
    with pytest.raises(ValueError, match=naming("row 1", "images is null")):
        load_source(write_lines(folder / "rows.jsonl", shown)).samples[0]


def test_a_row_without_the_column_has_no_videos(folder: Path) -> None:
    lines = write_lines(
        folder / "rows.jsonl", {**kit_row(), "images": [], "videos": ["1.mp4"]}, {**kit_row(2), "images": []}
    )
    assert [len(sample.videos) for sample in load_source(lines).samples] == [1, 0]


def test_videos_inside_messages(folder: Path) -> None:
    parts = [{"type": "text", "text": "See "}, {"type": "video", "video": "1.mp4"}, {"type": "text", "text": " now"}]
    row = {"task": "counting", "prompt": [{"role": "user", "content": parts}], "answer": "2"}
    sample = load_source(write_lines(folder / "rows.jsonl", row)).samples[0]
    assert sample.question == "See <video> now" and sample.videos == (str(folder / "1.mp4"),)
    with pytest.raises(ValueError, match=naming("row 1", "videos")):
        load_source(write_lines(folder / "rows.jsonl", {**row, "videos": ["1.mp4"]})).samples[0]


@pytest.mark.parametrize(
    ("videos", "named"),
    [
        (None, ("videos", "null")),
        ([None], ("video 1", "null")),
        (["1.mp4", 7], ("video 2", "int")),
        (["../1.mp4"], ("video", "data.image_root")),
        (["https://other.example.org/1.mp4"], ("video", "other.example.org")),
        ([{"frames": ["1.png"], "fps": 0}], ("video 1", "fps", 0)),
        ([{"frames": ["1.png"], "fps": "two"}], ("video 1", "fps")),
        ({"path": "1.mp4", "fps": 1}, ("video 1", "fps", 1, "data.fps")),
        ([["1.png", None]], ("video 1", "frames", "image 2")),
    ],
)
def test_bad_videos_are_named_with_their_row(folder: Path, videos: Any, named: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=naming("rows.jsonl", "row 1", *named)):
        read(folder / "rows.jsonl", videos=videos)


def test_rows_with_videos_are_written_and_read_again(folder: Path) -> None:
    other = folder / "other"
    other.mkdir()
    (other / "2.mp4").write_bytes(mp4(Clip(28, 28, 5)))
    videos = (mp4(), str(other / "2.mp4"), FrameList((png(8, 8), png(8, 8, 1)), 4.0))
    out = folder / "new" / "rows.jsonl"
    write_jsonl([Sample("1", "counting", (), "?", "4", videos=videos)], out)
    [sample] = load_source(str(out)).samples
    one, two, three = (open_video(video, FrameSampling()).times for video in sample.videos)
    assert (one.num_frames, two.num_frames, three.num_frames, three.fps) == (6, 5, 2, 4.0)
    assert all(Path(video).is_relative_to(out.parent) for video in sample.videos if isinstance(video, str))
    with pytest.raises(ValueError, match=naming("1", ".jsonl")):
        write_parquet([sample], folder / "rows.parquet")
