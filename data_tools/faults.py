"""What makes a row unusable: a field, an image, or a gold answer that its own task would not score as right."""

from __future__ import annotations

from typing import NamedTuple

from gpg_vl.dataset.schema import read_text
from gpg_vl.images import open_image
from gpg_vl.records import ImageView, Sample
from gpg_vl.tasks import load_task
from gpg_vl.tasks.base import score_completion


class Fault(NamedTuple):
    """Why a row is left out: ``Fault("image", "cannot open image (12 bytes): ...")``."""

    reason: str  # one of few, to count by
    detail: str  # this row's own


def find_fault(sample: Sample) -> Fault | None:
    """The first thing that is wrong with a row; every image is decoded whole."""
    try:
        for field in ("id", "task", "question", "answer"):
            read_text(field, getattr(sample, field))
    except ValueError as error:
        return Fault("a field is empty or too long", str(error))
    try:
        views = [_view(source) for source in sample.images]
    except ValueError as error:
        return Fault("an image cannot be opened", str(error))
    try:
        task = load_task(sample.task)
        task.check(sample)
    except ValueError as error:
        return Fault("the answer is none of its task", str(error))
    # Read as an answer in original pixels: written in whole units of a model's frame, a box would be rounded.
    reward = score_completion(task, sample, f"<answer>{sample.answer}</answer>", views)
    if reward.parts[task.main_part] < 1 - 1e-9:
        return Fault("the answer does not score 1", f"{sample.answer[:60]!r} earns {reward.parts} in its own task")
    return None


def _view(source: str | bytes) -> ImageView:
    """The frame in which answers are original pixels."""
    width, height = open_image(source).size
    return ImageView(width, height, width, height, "resized_pixels")
