"""Finds what is wrong with one row by opening its images and videos, and scoring its gold answer. In worker processes.

Only small results come back: an image's size, fingerprint and a small copy, for comparing rows.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from data_tools.faults import USUAL_FRAMES, WRONG_MARKERS, find_answer_fault
from data_tools.likeness import Picture, look_at
from gpg_vl.data.images import open_image
from gpg_vl.data.media_markers import IMAGE_MARKER
from gpg_vl.data.rows import LazySamples
from gpg_vl.data.schema import KIT_FIELDS, VERSION_FIELD
from gpg_vl.data.sources import Source, load_source
from gpg_vl.data.videos import FrameSampling, VideoShape, measure_video, read_video_file
from gpg_vl.records import FrameList, Sample

_FIELD = re.compile(rf"\b({VERSION_FIELD}|id|task|image|video|question|answer|meta)s?\b")


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file to check, as ``load_source`` takes it."""

    path: str
    columns: tuple[tuple[str, str | tuple[str, ...] | None], ...] = ()
    task: str | None = None
    image_root: str | None = None
    image_hosts: tuple[str, ...] = ()
    own_tasks: tuple[str, ...] = ()
    shrinks_large: bool = False  # as with data.on_large_image: shrink
    sampling: FrameSampling = USUAL_FRAMES


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem of one row: ``Finding(3, "r-3", "images", "cannot open image ...; replace it")``."""

    row: int  # counted from 1
    id: str  # "" if the row has none
    field: str  # a field of the row; "duplicate" or "leak" if it is too similar to another row
    text: str  # what is wrong; the way out


@dataclass(frozen=True, slots=True)
class CheckedRow:
    """A checked row."""

    number: int  # counted from 1
    id: str
    finding: Finding | None
    pictures: tuple[Picture, ...] = ()
    question: bytes = field(default=b"", repr=False)  # digest of its words, and of the videos that it is about
    has_marker_text: bool = False  # whether an image marker in it stays text, because the row has no images
    videos: tuple[VideoShape, ...] = ()


@lru_cache(maxsize=8)
def open_file(file: DataFile) -> Source:
    """The rows of a file. A repeated id does not raise here; it becomes a finding.

    Raises:
        ValueError: the file cannot be read at all; names it
    """
    entry: Mapping[str, object] = {"path": file.path, "columns": dict(file.columns) if file.columns else None}
    return load_source(
        entry, file.image_root, file.task, image_hosts=file.image_hosts, check_ids=False, own_tasks=file.own_tasks
    )


def check_range(file: DataFile, start: int, stop: int) -> list[CheckedRow]:
    """The rows from ``start`` up to ``stop``, counted from 0."""
    return [check_row(file, index) for index in range(start, stop)]


def check_row(file: DataFile, index: int) -> CheckedRow:
    """Checks one row by itself; rows are counted from 0."""
    number = index + 1
    try:
        sample = open_file(file).samples[index]
    except ValueError as error:
        reason = str(error).removeprefix(f"{file.path}, row {number}: ")
        known_id = _find_id(file, index)
        return CheckedRow(number, known_id, Finding(number, known_id, _name_field(reason), _with_way_out(reason)))
    try:
        images = [open_image(source, file.image_hosts, file.shrinks_large) for source in sample.images]
    except ValueError as error:
        return CheckedRow(number, sample.id, Finding(number, sample.id, "images", f"{error}; replace it"))
    try:
        videos = tuple(measure_video(source, file.sampling, file.image_hosts) for source in sample.videos)
        words = _digest(sample.question, *_digests_of_videos(sample, file))
    except ValueError as error:
        return CheckedRow(number, sample.id, Finding(number, sample.id, "videos", f"{error}; replace it"))
    pictures = tuple(map(look_at, images))
    finding = _find_in_answer(number, sample, pictures)
    has_marker_text = not pictures and IMAGE_MARKER in sample.question
    return CheckedRow(number, sample.id, finding, pictures, words, has_marker_text, videos)


def _digests_of_videos(sample: Sample, file: DataFile) -> Iterator[bytes]:
    """Videos are the same if their files are, or the files of their frames."""
    for video in sample.videos:
        if isinstance(video, FrameList):
            yield from (open_image(image, file.image_hosts).tobytes() for image in video.images)
        else:
            yield read_video_file(video, file.image_hosts)


def _find_id(file: DataFile, index: int) -> str:
    """The id of a row that is not a valid sample; "" if the id itself is missing, or the row cannot be read at all."""
    samples = open_file(file).samples
    assert isinstance(samples, LazySamples), file
    try:
        value = samples.table.row(index).get(str(samples.matched.columns.get("id", "")))
    except ValueError:
        return ""
    return str(value) if isinstance(value, str | int) else ""


def _with_way_out(reason: str) -> str:
    return reason if "; " in reason else f"{reason}; correct it"


def _name_field(reason: str) -> str:
    """The first field that a message names; every message about a row begins with one."""
    found = _FIELD.search(reason)
    name = found[1] if found else "row"
    return f"{name}s" if f"{name}s" in KIT_FIELDS else name


def _find_in_answer(number: int, sample: Sample, pictures: tuple[Picture, ...]) -> Finding | None:
    fault = find_answer_fault(sample, [picture.size for picture in pictures])
    if fault is None:
        return None
    return Finding(number, sample.id, _FAULTY_FIELDS.get(fault.reason, "answer"), _with_way_out(fault.detail))


_FAULTY_FIELDS = {"the task fails": "task", "there is no such task": "task", WRONG_MARKERS: "question"}


def _digest(text: str, *videos: bytes) -> bytes:
    """A digest that is equal for texts with the same words, whatever their case and spacing, about the same videos."""
    digest = hashlib.blake2b(" ".join(text.lower().split()).encode(), digest_size=16)
    for video in videos:
        digest.update(video)
    return digest.digest()
