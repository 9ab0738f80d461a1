"""What makes a row unusable: a field, an image, or a gold answer that its own task would not score as right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gpg_vl.data.images import open_image, original_size
from gpg_vl.data.json_text import write_json
from gpg_vl.data.media_markers import VIDEO_MARKER, check_markers
from gpg_vl.data.schema import read_text
from gpg_vl.data.videos import FrameSampling, measure_video
from gpg_vl.records import ImageView, Sample
from gpg_vl.tasks import load_task
from gpg_vl.tasks.base import Task
from gpg_vl.tasks.marks import find_lost_marks
from gpg_vl.user_code import describe_error

WRONG_MARKERS = "the markers are not one per image or video"
USUAL_FRAMES = FrameSampling()
"""Those of ``data.fps`` and ``data.max_frames`` where a recipe does not name them."""
_FINENESS = 1000  # units of the frame per original pixel: a gold box is practically not rounded


class Fault(NamedTuple):
    """Why a row is left out: ``Fault("image", "cannot open image (12 bytes): ...")``."""

    reason: str  # one of a few, for counting
    detail: str  # specific to this row


def find_fault(sample: Sample, shrinks_large: bool = False, sampling: FrameSampling = USUAL_FRAMES) -> Fault | None:
    """The first problem of a row; every image and video is decoded.

    Args:
        shrinks_large: whether an image of too many pixels is opened at a part of its size, or is a problem
        sampling: which frames of a video a run sees; their pixels are limited
    """
    try:
        for field in ("id", "task", "question", "answer"):
            read_text(field, getattr(sample, field))
    except ValueError as error:
        return Fault("a field is empty or too long", str(error))
    try:
        write_json(sample.meta)
    except ValueError as error:
        return Fault("meta cannot be written", str(error))
    try:
        sizes = [original_size(open_image(source, shrink=shrinks_large)) for source in sample.images]
    except ValueError as error:
        return Fault("an image cannot be opened", str(error))
    try:
        for video in sample.videos:
            measure_video(video, sampling)
    except ValueError as error:
        return Fault("a video cannot be opened", str(error))
    return find_answer_fault(sample, sizes)


def find_answer_fault(sample: Sample, sizes: Sequence[tuple[int, int]]) -> Fault | None:
    """Why the gold completion does not earn full marks in its own task.

    Args:
        sizes: width and height of each image, upright, in pixels
    """
    views = [ImageView(w, h, w * _FINENESS, h * _FINENESS, "resized_pixels") for w, h in sizes]
    try:
        task = load_task(sample.task)
    except ValueError as error:
        return Fault("there is no such task", str(error))
    try:
        task.check(sample)
        if (wrong := _find_wrong_markers(task, sample, views)) is not None:
            return wrong
        lost = find_lost_marks(task, sample, views)
    except ValueError as error:
        return Fault("the answer is not valid for its task", str(error))
    except (Exception, SystemExit) as error:  # noqa: BLE001  the task may be the user's code
        return Fault("the task fails", f"task {sample.task}: {describe_error(error)}")
    return None if lost is None else Fault("the answer does not score 1", lost)


def _find_wrong_markers(task: Task, sample: Sample, views: Sequence[ImageView]) -> Fault | None:
    try:
        question = task.ask(sample, views)
        check_markers(question, len(views))
        check_markers(question, len(sample.videos), marker=VIDEO_MARKER)
    except ValueError as error:
        return Fault(WRONG_MARKERS, str(error))
    return None
