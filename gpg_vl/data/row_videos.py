"""The videos of a row, in the forms in which rows have them -> a path, a URL, the bytes of a file, or images of frames.

A form is a path, a URL, bytes, an object with one of these (``{"video": ...}``, ``{"path": ...}``), a list of images,
or an object with such a list: ``{"frames": [...], "fps": 2}``. What is null is named, never passed over.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from gpg_vl.data.images import find_image
from gpg_vl.data.row_images import listed, read_images
from gpg_vl.records import FrameList

_KEYS = ("bytes", "video", "video_url", "url", "path", "file_name")
"""Of an object that is a video, the most certain first."""
_ENDING = re.compile(r"\.(mp4|m4v|mov|webm|mkv|avi)(?=$|[?#\"])", re.IGNORECASE)


def read_videos(value: Any, root: Path | None, hosts: Collection[str]) -> tuple[str | bytes | FrameList, ...]:
    """The videos of a column: a list, or one video.

    Args:
        root: resolved folder that paths must stay in; None allows no paths
        hosts: hosts that videos may be fetched from

    Raises:
        ValueError: a video is null, is in no known form, or lies elsewhere; names it
    """
    if value is None or value == "":
        raise ValueError("videos is null: a video may be lost; write [] if a row has no videos")
    return tuple(_read(entry, number, root, hosts) for number, entry in enumerate(listed(value), start=1))


def holds_video(value: Any, is_asked: bool) -> bool:
    """Whether a column ``video`` beside images holds a video; a text may be a note, unless it is named as a file.

    Args:
        is_asked: whether the question says where a video goes
    """
    if isinstance(value, str):
        return value != "" and (is_asked or _ENDING.search(value) is not None)
    return isinstance(value, bytes | list | Mapping)


def _read(entry: Any, number: int, root: Path | None, hosts: Collection[str]) -> str | bytes | FrameList:
    found, fps = entry, None
    for _ in range(3):
        if isinstance(found, Mapping):
            fps = found.get("fps") if fps is None else fps
            found = next((found[key] for key in ("frames", *_KEYS) if found.get(key) is not None), None)
    if isinstance(found, list):
        return _read_frames(found, fps, number, root, hosts)
    if fps is not None:
        raise ValueError(f"video {number}: fps is {fps!r} beside a file; leave it out, and set data.fps for all videos")
    if isinstance(found, bytes):
        return found
    if not isinstance(found, str):
        kind = "null (NoneType)" if found is None else f"a {type(found).__name__}"
        raise ValueError(f"video {number} is {kind}; give a path, the bytes of a video file, or a list of frames")
    return find_image(found, root, hosts, "video")


def _read_frames(frames: list[Any], fps: Any, number: int, root: Path | None, hosts: Collection[str]) -> FrameList:
    if isinstance(fps, bool) or not isinstance(fps, int | float | None) or not (fps is None or 0 < fps < math.inf):
        raise ValueError(f"video {number}: fps is {fps!r}; write how many frames there are in a second, as 2")
    try:
        return FrameList(read_images(frames, root, hosts), fps)
    except ValueError as error:
        raise ValueError(f"video {number}, its frames: {error}") from error
