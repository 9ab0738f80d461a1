"""The boxes of MP4 and MOV files, good and bad: what their tables promise."""

from __future__ import annotations

import io
import struct
from typing import Any

import av
import pytest

from gpg_vl.data import movie_tables
from gpg_vl.data.movie_tables import TooManySamplesError, read_tracks
from gpg_vl.data.videos import BadVideo, FrameSampling, open_video
from tests.support.clock import takes_less_than
from tests.support.messages import naming
from tests.support.videos import Clip, mp4

MANY = 20_000_000


def promising(kind: bytes, number: int, place: int) -> bytes:
    """A video with another number in a table: ``place`` bytes behind its name."""
    data = bytearray(mp4(Clip(56, 56, 6)))
    start = data.index(kind) + place
    data[start : start + 4] = struct.pack(">I", number)
    return bytes(data)


def sound(codec: str, kind: str, seconds: int = 2) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream: Any = container.add_stream(codec, rate=48000)
        for number in range(48 * seconds):
            frame = av.AudioFrame(format="s16", layout="mono", samples=1000)
            frame.sample_rate, frame.pts = 48000, 1000 * number
            frame.planes[0].update(bytes(2000))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


@pytest.mark.parametrize("kind", ["mp4", "mov"])
def test_frames_of_a_video_are_counted(kind: str) -> None:
    assert [track.num_samples for track in read_tracks(mp4(Clip(56, 56, 7), kind=kind)) if track.is_video] == [7]


@pytest.mark.parametrize("kind", ["avi", "matroska"])
def test_other_formats_promise_nothing(kind: str) -> None:
    assert [track.num_samples for track in read_tracks(mp4(kind=kind))] == [0]


def test_uncompressed_sound_is_indexed_in_blocks() -> None:
    """It has 96,000 samples; FFmpeg's index has a few for each chunk."""
    assert 0 < read_tracks(sound("pcm_s16le", "mov"))[-1].num_samples < 1000


@pytest.mark.parametrize(("kind", "place"), [(b"stsz", 12), (b"stts", 12)])
def test_frames_that_a_table_promises_are_refused_before_they_are_indexed(kind: bytes, place: int) -> None:
    data = promising(kind, MANY, place)

    def refuse() -> None:
        with pytest.raises(BadVideo, match=naming(str(MANY), "108000", "cut it")):
            open_video(data, FrameSampling())

    assert takes_less_than(0.5, refuse)


@pytest.mark.parametrize(
    "table",
    [
        box(b"stbl", box(b"stsz", struct.pack(">III", 0, 1, MANY))),
        box(b"stbl", box(b"stz2", struct.pack(">III", 0, 8, MANY))),
        box(b"stts", struct.pack(">IIII", 0, 1, MANY, 7)),
        box(b"minf", box(b"ctts", struct.pack(">IIIIII", 0, 2, MANY // 2, 7, MANY // 2, 7))),
    ],
)
def test_a_track_of_sound_cannot_promise_more(table: bytes) -> None:
    track = box(b"trak", box(b"hdlr", struct.pack(">II4s", 0, 0, b"soun")) + table)
    with pytest.raises(BadVideo, match=naming(str(MANY), "3000000")):
        open_video(box(b"ftyp", b"isom") + box(b"moov", track), FrameSampling())


@pytest.mark.parametrize("table", [b"stsz", b"stts", b"elst"])
def test_a_sample_description_cannot_hide_a_table(table: bytes) -> None:
    """FFmpeg would take it for one of the track."""
    data = mp4(Clip(56, 56, 6))
    assert data.count(b"esds") == 1
    start = data.index(b"stsd")
    assert data.index(b"esds") > start
    with pytest.raises(BadVideo, match=naming("table")):
        open_video(data.replace(b"esds", table), FrameSampling())


def test_compressed_tables_are_refused() -> None:
    with pytest.raises(BadVideo, match=naming("compressed")):
        open_video(box(b"ftyp", b"qt  ") + box(b"moov", box(b"cmov", b"x" * 40)), FrameSampling())


@pytest.mark.parametrize("parent", [b"edts", b"udta", b"mvex", b"wave", b"meta"])
def test_every_box_in_which_ffmpeg_looks_is_looked_into(parent: bytes) -> None:
    table = box(b"hdlr", bytes(24)) + box(b"stsz", struct.pack(">III", 0, 1, MANY))
    inside = struct.pack(">I", 0) + table if parent == b"meta" else table
    [track] = read_tracks(box(b"moov", box(parent, inside)))
    assert track.num_samples == MANY


def edits(version: int, *times: int) -> bytes:
    rows = b"".join(struct.pack(">QqI" if version else ">IiI", 90, time, 1 << 16) for time in times)
    return box(b"edts", box(b"elst", struct.pack(">BxxxI", version, len(times)) + rows))


@pytest.mark.parametrize("version", [0, 1])
def test_edit_lists_show_samples_again(version: int) -> None:
    sizes = box(b"stbl", box(b"stsz", struct.pack(">III", 0, 1, 1000)))
    tracks = read_tracks(box(b"moov", box(b"trak", edits(version, -1, 0, 500, -1, 0) + sizes)))
    assert [(each.num_samples, each.num_entries) for each in tracks[1:]] == [(1000, 3000)]
    data = mp4(Clip(56, 56, 6))
    many = edits(version, *[0] * 600_000)
    shown = box(b"moov", box(b"trak", many + data[data.index(b"mdia") - 4 : data.index(b"udta") - 4]))
    with pytest.raises(BadVideo, match=naming("edit lists", 6, 6 * 600_000)):
        open_video(box(b"ftyp", b"isom") + shown, FrameSampling())


def test_an_edit_list_that_is_cut_is_read_as_far_as_it_goes() -> None:
    for end in range(0, 48, 3):
        [track] = read_tracks(edits(0, 0, 0, 0)[:end])
        assert track.num_edits <= 3


def test_fragments_promise_too() -> None:
    fragment = box(b"moof", box(b"traf", box(b"trun", struct.pack(">II", 0, MANY // 10))))
    assert sum(track.num_samples for track in read_tracks(10 * fragment)) == MANY


def test_boxes_are_few_and_not_deep(monkeypatch: pytest.MonkeyPatch) -> None:
    nested = box(b"trak", b"")
    for _ in range(2000):
        nested = box(b"moov", nested)
    assert len(read_tracks(nested)) == 1, "FFmpeg refuses what is nested as deep"
    monkeypatch.setattr(movie_tables, "MAX_BOXES", 100)
    assert read_tracks(100 * box(b"skip", b""))
    with pytest.raises(TooManySamplesError, match=naming("100 boxes")):
        read_tracks(101 * box(b"skip", b""))


@pytest.mark.parametrize("end", range(0, 200, 7))
def test_a_file_cut_anywhere_can_be_read(end: int) -> None:
    data = mp4()
    promised = sum(track.num_samples for track in read_tracks(data))
    for cut in (data[data.index(b"stbl") - 100 :][:end], data[: len(data) - end]):
        assert sum(track.num_samples for track in read_tracks(cut)) <= promised
