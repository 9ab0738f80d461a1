"""Draws the demo's videos: shapes that pass through the picture one after the other, and a question of how many.

No single frame shows them all, so the answer is in the video and not in a picture of it. The same seed draws the same
bytes: a video is encoded by one thread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from io import BytesIO
from random import Random
from typing import Any

import numpy
from PIL import Image

from data_tools.scenes import COLOURS, UNITS, Canvas, lighten
from gpg_vl.records import Sample

VIDEO_TASK = "counting-video"
"""As ``--task`` names it; its rows are of the task ``counting``."""

NUM_FRAMES = 8
FPS = 2
_LANES = 4
_SEEN = 3  # frames that show a shape
_LANE = UNITS // _LANES


@dataclass(frozen=True, slots=True)
class _Passing:
    """A shape on its way, from the left or the right."""

    lane: int
    first_frame: int
    from_left: bool
    kind: str
    colour: tuple[int, int, int]

    def box(self, frame: int) -> tuple[float, float, float, float] | None:
        """Where it is, in drawing units; None where it is not seen."""
        step = frame - self.first_frame
        if not 0 <= step < _SEEN:
            return None
        x = UNITS * (step + 0.5) / _SEEN
        x, y = x if self.from_left else UNITS - x, _LANE * (self.lane + 0.5)
        return (x - 9, y - 9, x + 9, y + 9)


def stream_videos(num: int, seed: int, size: int, exclude: Collection[bytes] = frozenset()) -> Iterator[Sample]:
    """``num`` kit rows one by one, with different videos, as MP4 bytes of ``size`` x ``size`` pixels.

    Args:
        exclude: ``hash_video`` of videos that must not be drawn

    Raises:
        ValueError: the size cannot be encoded
    """
    if size % 2:
        raise ValueError(f"--size is {size}; a video needs an even number of pixels a side")
    rng = Random(f"{VIDEO_TASK} {seed}")
    seen = set(exclude)
    number = 0
    while number < num:
        shapes = _draw_shapes(rng)
        video = _encode([_draw_frame(shapes, frame, size) for frame in range(NUM_FRAMES)], size)
        if (digest := hash_video(video)) in seen:
            continue
        seen.add(digest)
        meta = {"seconds": sorted(shape.first_frame / FPS for shape in shapes)}
        name = f"{VIDEO_TASK}-{seed}-{number}"
        yield Sample(name, "counting", (), "How many shapes?", str(len(shapes)), meta, videos=(video,))
        number += 1


def hash_video(video: bytes) -> bytes:
    """A hash of a video's file: equal frames give equal files."""
    return hashlib.blake2b(video, digest_size=16).digest()


def _draw_shapes(rng: Random) -> list[_Passing]:
    """One to four, each in its own lane."""
    lanes = rng.sample(range(_LANES), rng.randint(1, _LANES))
    colours = list(COLOURS.values())
    return [
        _Passing(
            lane,
            rng.randint(0, NUM_FRAMES - _SEEN),
            rng.random() < 0.5,
            rng.choice(["circle", "square"]),
            lighten(rng, rng.choice(colours)),
        )
        for lane in lanes
    ]


def _draw_frame(shapes: list[_Passing], frame: int, size: int) -> Image.Image:
    canvas = Canvas(size)
    for shape in shapes:
        if (box := shape.box(frame)) is not None:
            canvas.draw(shape.kind, box, shape.colour)
    return canvas.finish()


def _encode(frames: list[Image.Image], size: int) -> bytes:
    """
    Raises:
        ValueError: the library that encodes videos is not installed
    """
    try:
        import av
    except ImportError as error:
        raise ValueError("videos are encoded by the package av: pip install gpg-vl[video]") from error
    file = BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("mpeg4", rate=FPS, options={"qscale": "2"})
        stream.width, stream.height, stream.pix_fmt = size, size, "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numpy.asarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()
