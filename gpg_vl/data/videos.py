"""A video file, its bytes, its URL, or images of its frames -> the frames that the model sees, or a line why not.

Limits are checked in the file's header where possible, before a frame is decoded. FFmpeg reads bytes alone: what a file
names is neither opened nor fetched.
"""

from __future__ import annotations

import importlib
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import islice
from typing import Any

from PIL.Image import Image, Transpose

from gpg_vl.data.images import BadImage, fetch_image, open_image
from gpg_vl.data.media_files import RefusedError, is_url, read_source, refuse_shape
from gpg_vl.data.movie_tables import TooManySamplesError, read_tracks, refuse_samples
from gpg_vl.records import FrameList, FrameTimes

MAX_BYTES = 512 * 2**20
MAX_SECONDS = 3600.0
MAX_FRAMES = 108_000  # an hour of 30 a second
MAX_PIXELS = 3840 * 2160  # of a frame
MAX_SEEN_PIXELS = 200_000_000  # of all frames that the model sees, before they are scaled down
DECODING_S = 300.0  # for all frames of a video
DOWNLOAD_S = 120.0

FORMATS = "MP4, MOV, WebM, MKV or AVI"
_DEMUXERS = "mov,matroska,avi"
_STRICTLY = "explode+bitstream+buffer+crccheck"
_LEAST_FRAMES = 4
"""A short video, too, shows a change."""
_TURNS = {90: Transpose.ROTATE_90, 180: Transpose.ROTATE_180, 270: Transpose.ROTATE_270}

VideoSource = str | bytes | FrameList


class BadVideo(BadImage):
    """``cannot open video NAME: REASON``. ``data.on_bad_image`` says what to do."""


@dataclass(frozen=True, slots=True)
class FrameSampling:
    """How many frames of a video the model sees: ``data.fps`` and ``data.max_frames``."""

    fps: float = 2.0  # frames in a second
    max_frames: int = 32

    def choose(self, num_frames: int, fps: float) -> FrameTimes:
        """Frames at equal distances, the first and the last of the video among them.

        Args:
            num_frames: of the video
            fps: of the video
        """
        wanted = max(_LEAST_FRAMES, round(num_frames / fps * self.fps))
        count = min(wanted, self.max_frames, num_frames)
        step = (num_frames - 1) / max(1, count - 1)
        return FrameTimes(tuple(round(n * step) for n in range(count)), num_frames, fps)


@dataclass(frozen=True, slots=True)
class VideoShape:
    """What decides how many tokens a video has."""

    width: int  # of a frame, in pixels
    height: int
    times: FrameTimes


@dataclass(frozen=True, slots=True)
class Video:
    """The frames that the model sees, RGB, upright, all of one size; the first alone where a video is measured."""

    frames: tuple[Image, ...]
    times: FrameTimes

    @property
    def shape(self) -> VideoShape:
        return VideoShape(*self.frames[0].size, self.times)


def open_video(source: VideoSource, sampling: FrameSampling, hosts: Collection[str] = ()) -> Video:
    """
    Args:
        source: path or URL of a video file, the bytes of one, or the images of its frames
        hosts: hosts that videos may be fetched from; empty: every URL is refused

    Raises:
        BadVideo: ``cannot open video NAME: REASON``
        ValueError: the library that decodes videos is not installed
    """
    return _open(source, sampling, hosts, None)


def measure_video(source: VideoSource, sampling: FrameSampling, hosts: Collection[str] = ()) -> VideoShape:
    """The shape of what ``open_video`` returns or refuses; all its frames are decoded, and one at a time is held."""
    return _open(source, sampling, hosts, 1).shape


def _open(source: VideoSource, sampling: FrameSampling, hosts: Collection[str], kept: int | None) -> Video:
    """``kept``: how many frames are kept, of those that the model sees; None: all."""
    try:
        if isinstance(source, FrameList):
            return _read_frames(source, sampling, hosts, kept)
        return _decode(_read_bytes(source, hosts), sampling, kept)
    except _MissingLibraryError as error:
        raise ValueError(str(error)) from error
    except Exception as error:  # decoders raise nearly anything on broken bytes
        raise BadVideo(f"cannot open video {_name(source)}: {_reason(error)}") from error


def _keep(frames: Iterator[Image], kept: int | None) -> tuple[Image, ...]:
    """The first frames; the others are read and dropped."""
    found = tuple(islice(frames, kept))
    deque(frames, maxlen=0)
    return found


def fetch_video(source: VideoSource, hosts: Collection[str] = ()) -> VideoSource:
    """The bytes at a URL, so that they need not be fetched again; also of frames. Anything else is returned unchanged.

    Raises:
        BadImage: ``cannot open video NAME: REASON``, or likewise of an image
    """
    if isinstance(source, FrameList):
        return replace(source, images=tuple(fetch_image(image, hosts) for image in source.images))
    return read_video_file(source, hosts) if isinstance(source, str) and is_url(source) else source


def read_video_file(source: str | bytes, hosts: Collection[str] = ()) -> bytes:
    """The bytes of a video file.

    Raises:
        BadVideo: ``cannot open video NAME: REASON``
    """
    try:
        return _read_bytes(source, hosts)
    except (OSError, RefusedError) as error:
        raise BadVideo(f"cannot open video {_name(source)}: {_reason(error)}") from error


def _name(source: VideoSource) -> str:
    if isinstance(source, FrameList):
        return f"of {len(source.images)} images"
    return f"({len(source)} bytes)" if isinstance(source, bytes) else source[:200]


def _reason(error: Exception) -> str:
    """The reason in our own words: the library's message may contain bytes of the file."""
    if isinstance(error, RefusedError | BadImage | TooManySamplesError):
        return str(error)
    if isinstance(error, OSError) and error.strerror and not type(error).__module__.startswith("av."):
        return error.strerror.lower()
    return f"it is broken or truncated ({type(error).__name__})"


# --- images of frames ---


def _read_frames(source: FrameList, sampling: FrameSampling, hosts: Collection[str], kept: int | None) -> Video:
    if not source.images:
        raise RefusedError("it has no frames")
    fps = source.fps or sampling.fps
    _refuse_length(len(source.images), fps)
    times = sampling.choose(len(source.images), fps)
    frames = (open_image(source.images[number], hosts) for number in times.numbers)
    return Video(_keep(_of_one_size(frames, times), kept), times)


def _of_one_size(frames: Iterable[Image], times: FrameTimes) -> Iterator[Image]:
    size = None
    for frame in frames:
        if size is None:
            size = frame.size
            _refuse_total(*size, times)
        if frame.size != size:
            (w1, h1), (w2, h2) = sorted((size, frame.size))
            raise RefusedError(f"its frames have different sizes, {w1} x {h1} and {w2} x {h2}; give all the same")
        yield frame


# --- a file ---


def _read_bytes(source: str | bytes, hosts: Collection[str]) -> bytes:
    """The whole file, if it is small enough."""
    data = read_source(source, hosts, MAX_BYTES, DOWNLOAD_S)
    if len(data) > MAX_BYTES:
        raise RefusedError(f"the file has more than {MAX_BYTES} bytes; make it smaller")
    return data


class _MissingLibraryError(Exception):
    pass


def _library() -> Any:
    """PyAV, which is loaded with the first video."""
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise _MissingLibraryError(
            "videos are decoded by the package av, which is not installed: pip install gpg-vl[video]"
        ) from error


def _decode(data: bytes, sampling: FrameSampling, kept: int | None) -> Video:
    av = _library()
    _refuse_tables(data)
    deadline = time.monotonic() + DECODING_S
    with _opened(av, data) as (container, stream):
        num_frames, fps, start = _measure(container, stream, deadline)
    _refuse_length(num_frames, fps)
    times = sampling.choose(num_frames, fps)
    with _opened(av, data) as (container, stream):
        _refuse_total(stream.codec_context.width, stream.codec_context.height, times)
        return Video(_keep(_pick(container, stream, times, start, deadline), kept), times)


@contextmanager
def _opened(av: Any, data: bytes) -> Iterator[tuple[Any, Any]]:
    """The file and its first video stream, of a frame size that is accepted."""
    try:
        container = av.open(BytesIO(data), options={"format_whitelist": _DEMUXERS})
    except Exception as error:
        raise RefusedError(f"it is not a {FORMATS} video, or its header is broken") from error
    with container:
        if not container.streams.video:
            raise RefusedError("it has no frames: the file holds no video stream")
        stream = container.streams.video[0]
        _refuse_size(stream.codec_context.width, stream.codec_context.height)
        # a stream may change its size, and some decoders show what they cannot read as grey
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS), "err_detect": _STRICTLY}
        yield container, stream


def _refuse_tables(data: bytes) -> None:
    """What an MP4 or MOV file promises, before FFmpeg makes room for it."""
    tracks = read_tracks(data)
    _refuse_count(max((each.num_samples for each in tracks if each.is_video), default=0))
    refuse_samples(tracks)


def _refuse_count(num_frames: int) -> None:
    if num_frames > MAX_FRAMES:
        raise RefusedError(f"it has {num_frames} frames, more than {MAX_FRAMES}; cut it")


def _refuse_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise RefusedError(f"its frames have {width} x {height} pixels, more than {MAX_PIXELS}; make them smaller")
    refuse_shape("its frames have", width, height)


def _refuse_total(width: int, height: int, times: FrameTimes) -> None:
    """What is held in memory at once."""
    count = len(times.numbers)
    if count * width * height > MAX_SEEN_PIXELS:
        raise RefusedError(
            f"{count} frames of {width} x {height} have more than {MAX_SEEN_PIXELS} pixels; make them smaller, or "
            "lower data.max_frames"
        )


def _refuse_length(num_frames: int, fps: float) -> None:
    if num_frames == 0:
        raise RefusedError("it has no frames")
    if not fps > 0:
        raise RefusedError("it does not say how many frames it has in a second")
    _refuse_count(num_frames)
    if num_frames / fps > MAX_SECONDS:
        raise RefusedError(f"it takes {num_frames / fps:.0f} s, more than {MAX_SECONDS:.0f}; cut it")


def _measure(container: Any, stream: Any, deadline: float) -> tuple[int, float, int | None]:
    """The number of frames, how many there are in a second, and the time of the first whole picture, in ticks.

    None is decoded, and the header is not relied on. A clip that was cut without encoding it again may begin with
    frames that need one which was cut away; they are shown before the first whole picture, and do not count.

    Raises:
        RefusedError: there are too many, or they end long before the header says
    """
    times: list[int | None] = []
    start: int | None = None
    for packet in container.demux(stream):
        shown_at = packet.dts if packet.pts is None else packet.pts
        if packet.is_keyframe and start is None:
            start = shown_at
        if packet.size > 0 and not packet.is_discard:
            times.append(shown_at)
        if len(times) > MAX_FRAMES:
            raise RefusedError(f"it has more than {MAX_FRAMES} frames; cut it")
        _refuse_late(deadline)
    times = [each for each in times if not _is_before(each, start)]
    known = [each for each in times if each is not None]
    seconds = float((max(known) - min(known)) * stream.time_base) if known else 0.0
    said = _said_seconds(container, stream)
    if seconds < said / 2 - 1:
        raise RefusedError(f"it is truncated: its frames end after {seconds:.1f} s, its header says {said:.1f} s")
    fps = (len(times) - 1) / seconds if seconds > 0 else float(stream.average_rate or 0)
    return len(times), fps, start


def _is_before(time: int | None, start: int | None) -> bool:
    return time is not None and start is not None and time < start


def _said_seconds(container: Any, stream: Any) -> float:
    """How long the pictures take by the header; 0 where it only says how long they or the sound take."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1e6 if len(container.streams) == 1 else 0.0


def _pick(container: Any, stream: Any, times: FrameTimes, start: int | None, deadline: float) -> Iterator[Image]:
    stream.thread_type = "NONE"  # with threads, H.264's decoder tells of a damaged frame only at times
    wanted, number, size = set(times.numbers), -1, None
    shown = (frame for frame in container.decode(stream) if not _is_before(frame.pts, start))
    for number, frame in enumerate(shown):
        _refuse_late(deadline)
        size = size or (frame.width, frame.height)
        if frame.is_corrupt or (frame.width, frame.height) != size:
            raise RefusedError(f"it is broken: frame {number + 1} is damaged, or of another size than the first")
        if number in wanted:
            yield _upright(frame)
        if number == times.numbers[-1]:
            return
    raise RefusedError(f"it is broken or truncated: {number + 1} of its {times.num_frames} frames can be decoded")


def _refuse_late(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise RefusedError(f"decoding it takes over {DECODING_S:g} s; make it shorter or smaller")


def _upright(frame: Any) -> Image:
    image: Image = frame.to_image()
    turn = _TURNS.get(frame.rotation % 360)
    return image if turn is None else image.transpose(turn)
