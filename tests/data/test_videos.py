"""Video files, good and bad: what is seen of them, and the one line that refuses them."""

from __future__ import annotations

import io
import struct
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import numpy
import pytest

from gpg_vl.data import media_files, videos
from gpg_vl.data.images import BadImage, open_image
from gpg_vl.data.videos import BadVideo, FrameSampling, VideoShape, fetch_video, measure_video, open_video
from gpg_vl.records import FrameList
from tests.support.builders import png
from tests.support.messages import naming
from tests.support.videos import Clip, cut_at_second_key, decode, find_packets, mp4, open_any, with_sound

TWO_A_SECOND = FrameSampling(fps=2, max_frames=32)


def opened(source: Any, sampling: FrameSampling = TWO_A_SECOND) -> videos.Video:
    return open_video(source, sampling)


# --- what is seen ---


@pytest.mark.parametrize(
    ("num_frames", "fps", "sampling", "numbers"),
    [
        (40, 10, TWO_A_SECOND, (0, 6, 11, 17, 22, 28, 33, 39)),
        (40, 10, FrameSampling(2, 3), (0, 20, 39)),
        (8, 2, TWO_A_SECOND, tuple(range(8))),
        (90, 30, FrameSampling(1, 32), (0, 30, 59, 89)),  # never fewer than four
        (3, 30, TWO_A_SECOND, (0, 1, 2)),
        (50, 10, FrameSampling(2, 1), (0,)),
    ],
)
def test_frames_are_spread_over_the_video(
    num_frames: int, fps: float, sampling: FrameSampling, numbers: tuple[int, ...]
) -> None:
    times = sampling.choose(num_frames, fps)
    assert times.numbers == numbers
    assert times.seconds == tuple(number / fps for number in numbers)


@pytest.mark.parametrize(
    ("codec", "kind"),
    [("mpeg4", "mp4"), ("libx264", "mp4"), ("libvpx-vp9", "webm"), ("mpeg4", "avi"), ("mpeg4", "matroska")],
)
def test_every_format_gives_the_frames_of_the_decoder(codec: str, kind: str) -> None:
    data = mp4(Clip(56, 28, 9, 3), codec, kind)
    video = opened(data)
    assert video.times.num_frames == 9 and video.times.fps == pytest.approx(3, rel=1e-3)
    assert video.frames[0].size == (56, 28)
    for number, frame in zip(video.times.numbers, video.frames, strict=True):
        assert numpy.array_equal(numpy.asarray(frame), decode(data)[number].permute(1, 2, 0).numpy())


def test_a_turned_video_is_upright() -> None:
    """A phone writes how to turn a video into its header: here by a quarter to the right."""
    data = bytearray(mp4(Clip(56, 28, 4)))
    matrix = data.index(b"tkhd") + 44
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    video = opened(bytes(data))
    assert video.frames[0].size == (28, 56)
    first = decode(mp4(Clip(56, 28, 4)))[0].permute(1, 2, 0).numpy()
    assert numpy.array_equal(numpy.asarray(video.frames[0]), numpy.rot90(first, -1))


def test_a_cut_clip_begins_with_the_first_frame_that_is_whole() -> None:
    """Frames before it in time, which come after it in the file, need one that was cut away."""
    whole = mp4(Clip(56, 28, 40, 10), "mpeg2video", "matroska", {"bf": "2", "g": "12"})
    data = cut_at_second_key(whole, "matroska")
    frames, num_packets = decode(data), len(find_packets(data))
    assert len(frames) == num_packets - 2 > 20, "two cannot be decoded"
    video = opened(data)
    assert video.times.num_frames == len(frames) and video.times.numbers[-1] == len(frames) - 1
    assert video.times.fps == pytest.approx(10, rel=1e-2)
    for number, frame in zip(video.times.numbers, video.frames, strict=True):
        assert numpy.array_equal(numpy.asarray(frame), frames[number].permute(1, 2, 0).numpy())


def test_sound_may_be_longer_than_the_pictures() -> None:
    pictures = mp4(Clip(56, 28, 8, 4))
    data = with_sound(pictures, seconds=9)
    container = open_any(data)
    assert container.duration / 1e6 > 8
    assert opened(data).times == opened(pictures).times
    with pytest.raises(BadVideo, match=naming("truncated", "header")):
        opened(mp4(Clip(56, 56, 60, 4), kind="avi")[:9000])


def test_images_of_frames_are_a_video() -> None:
    images = tuple(png(20, 30, seed) for seed in range(9))
    video = opened(FrameList(images, 3))
    assert video.times.numbers == (0, 2, 3, 5, 6, 8)
    for number, frame in zip(video.times.numbers, video.frames, strict=True):
        assert numpy.array_equal(numpy.asarray(frame), numpy.asarray(open_image(images[number])))
    assert video.times.fps == 3 and video.shape == VideoShape(20, 30, video.times)
    assert opened(FrameList(images)).times.numbers == tuple(range(9)), "as many a second as the model sees"


def test_a_video_is_measured_with_a_frame_at_a_time() -> None:
    images = FrameList(tuple(png(20, 30, seed) for seed in range(9)), 3)
    for source in (mp4(Clip(56, 28, 9, 3)), images):
        assert measure_video(source, TWO_A_SECOND) == opened(source).shape
    with pytest.raises(BadVideo, match=naming("8 x 8", "8 x 10")):
        measure_video(FrameList((png(8, 8), png(8, 10))), TWO_A_SECOND)
    with pytest.raises(BadVideo, match=naming("broken")):
        measure_video(damaged(), TWO_A_SECOND)


def test_measuring_holds_few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first, the one before and the one being made."""
    made: list[Any] = []
    most = 0
    upright = videos._upright

    def counted(frame: Any) -> Any:
        nonlocal most
        image = upright(frame)
        made.append(weakref.ref(image))
        most = max(most, sum(each() is not None for each in made))
        return image

    monkeypatch.setattr(videos, "_upright", counted)
    measure_video(mp4(Clip(56, 56, 20)), TWO_A_SECOND)
    assert (len(made), most <= 3) == (20, True)


# --- what is refused ---


def audio() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        frame.sample_rate = 8000
        frame.planes[0].update(bytes(frame.planes[0].buffer_size))
        container.mux([*stream.encode(frame), *stream.encode()])
    return file.getvalue()


def damaged(start: float = 0.3) -> bytes:
    data = bytearray(mp4(Clip(56, 56, 12)))
    place = int(len(data) * start)
    data[place : place + 400] = b"\xff" * 400
    return bytes(data)


BAD: dict[str, tuple[Any, tuple[str, ...]]] = {
    "no video": (b"x" * 1000, ("1000 bytes", "MP4")),
    "empty": (b"", ("empty",)),
    "cut in its header": (mp4()[:800], ("800 bytes",)),
    "cut in its frames": (mp4(Clip(56, 56, 60, 10), kind="matroska")[:5000], ("truncated", "6.0 s")),
    "damaged": (damaged(), ("broken",)),
    "sound alone": (audio(), ("no frames", "no video stream")),
    "a playlist": (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1/1.ts\n", ("MP4",)),
    "a list of files": (b"ffconcat version 1.0\nfile /etc/hostname\n", ("MP4",)),
    "missing": ("/no/such/video.mp4", ("/no/such/video.mp4", "no such file")),
    "another host": ("https://videos.example.org/1.mp4", ("videos.example.org", "data.image_hosts")),
    "no images": (FrameList(()), ("no frames",)),
    "images of different sizes": (FrameList((png(8, 8), png(8, 10))), ("8 x 8", "8 x 10")),
    "a broken image": (FrameList((png(8, 8), b"?")), ("PNG",)),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_videos_are_named_in_a_line(case: str) -> None:
    source, named = BAD[case]
    with pytest.raises(BadVideo, match=naming("cannot open video", *named)) as caught:
        opened(source)
    assert "\n" not in str(caught.value) and isinstance(caught.value, BadImage)


@pytest.mark.parametrize(
    ("codec", "kind"),
    [("mpeg4", "mp4"), ("mpeg4", "avi"), ("libx264", "mp4"), ("mjpeg", "avi"), ("mpeg2video", "matroska")],
)
def test_damage_within_a_frame_is_not_shown_as_grey(codec: str, kind: str) -> None:
    """docs/data.md names the codecs whose decoders do not tell."""
    data = mp4(Clip(56, 56, 12), codec, kind)
    assert opened(data).times.num_frames == 12
    for place, size in find_packets(data):
        with pytest.raises(BadVideo, match=naming("broken")):
            opened(damaged_packet(data, place, size))


def damaged_packet(data: bytes, place: int, size: int) -> bytes:
    start, stop = place + size // 3, place + 2 * size // 3
    return data[:start] + b"\xff" * (stop - start) + data[stop:]


def test_damage_within_a_frame_is_told_each_time() -> None:
    """Whatever else the processor does. With a decoder of several threads, one clip in a few hundred was accepted."""
    data = mp4(Clip(56, 56, 12), "libx264")
    clips = [damaged_packet(data, place, size) for place, size in find_packets(data)] * 100
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(is_refused, clips)) == len(clips)


def is_refused(data: bytes) -> bool:
    try:
        opened(data)
    except BadVideo:
        return True
    return False


@pytest.mark.parametrize(
    ("limit", "value", "named"),
    [
        ("MAX_BYTES", 1000, ("1000 bytes",)),
        ("MAX_SECONDS", 2.0, ("3 s", "2")),
        ("MAX_FRAMES", 5, ("more than 5",)),
        ("MAX_PIXELS", 3000, ("56 x 56", "3000")),
        ("MAX_SEEN_PIXELS", 6 * 56 * 56 - 1, ("6 frames of 56 x 56", "data.max_frames")),
        ("DECODING_S", -1.0, ("takes over",)),
    ],
)
def test_limits_hold_before_a_frame_is_decoded(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: float, named: tuple[str, ...]
) -> None:
    data = mp4(Clip(56, 56, 6))
    opened(data)
    monkeypatch.setattr(videos, limit, value)
    monkeypatch.setattr(videos, "_pick", None)
    with pytest.raises(BadVideo, match=naming(*named)):
        opened(data)


def test_a_path_is_read_and_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "1.mp4").write_bytes(mp4())
    assert opened(str(tmp_path / "1.mp4")).times.num_frames == 6
    (tmp_path / "2.mp4").symlink_to(tmp_path / "1.mp4")
    with pytest.raises(BadVideo, match=naming("2.mp4")):
        opened(str(tmp_path / "2.mp4"))


def test_a_url_of_a_known_host_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_files, "download", lambda url, hosts, *limits: mp4() if "v.example.org" in hosts else b"")
    url = "https://v.example.org/1.mp4"
    assert open_video(url, TWO_A_SECOND, ["v.example.org"]).times.num_frames == 6
    assert fetch_video(url, ["v.example.org"]) == mp4() and fetch_video("1.mp4") == "1.mp4"
    assert fetch_video(FrameList((b"1",))) == FrameList((b"1",))


def test_a_missing_library_is_no_bad_video(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows must not be left out for it, as those of bad videos may be."""
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=naming("av", "pip install gpg-vl[video]")) as caught:
        opened(mp4())
    assert not isinstance(caught.value, BadImage)
    assert opened(FrameList((png(8, 8),))).times.num_frames == 1
