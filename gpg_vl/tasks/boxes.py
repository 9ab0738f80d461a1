"""What the tasks that answer in boxes share: the frame in words, into original pixels and back."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, inf

from gpg_vl.records import Box, ImageView, Sample
from gpg_vl.verifiers.boxes import clip_box, is_inside, is_ordered

EDGE_TOLERANCE = 1.0
"""Original pixels that a corner may lie outside of the image; it is moved back to the edge before scoring."""


def describe_frame(views: Sequence[ImageView]) -> str:
    """In what the model is to give coordinates of the first image, for the end of a sentence.

    Raises:
        ValueError: there is no image
    """
    if not views:
        raise ValueError("the row has no image to find a box in")
    view = views[0]
    if view.frame == "grid_1000":
        return "on a grid from 0 to 1000 over the image"
    return f"in pixels of the {view.model_width} x {view.model_height} image"


def boxes_in_image(boxes: Sequence[Box], view: ImageView) -> list[Box] | None:
    """Boxes of the model's frame in original pixels; None unless every one has an area and lies in the image."""
    found = []
    for in_frame in boxes:
        box = view.to_original(in_frame)
        clipped = clip_box(box, view.width, view.height)
        if not is_inside(box, view.width, view.height, EDGE_TOLERANCE) or not is_ordered(clipped):
            return None
        found.append(clipped)
    return found


def write_box(box: Box, view: ImageView) -> list[int]:
    """A box of original pixels in whole units of the model's frame; a side shorter than that becomes one unit long."""
    x1, y1, x2, y2 = view.to_model(box)
    (left, right), (top, bottom) = _round_side(x1, x2), _round_side(y1, y2)
    return [left, top, right, bottom]


def _round_side(low: float, high: float) -> tuple[int, int]:
    """Both ends to the nearest unit, but never to the same: the box keeps an area."""
    if round(low) < round(high):
        return round(low), round(high)
    return floor(low), ceil(high)


def check_boxes(sample: Sample, boxes: Sequence[Box] | None) -> None:
    """Raises ``ValueError`` where a row's gold boxes cannot be ones of original pixels, or the row has no image."""
    if boxes is None or not all(is_ordered(box) and is_inside(box, inf, inf) for box in boxes):
        raise ValueError(
            f"the answer {sample.answer[:60]!r} is no box; write [x1, y1, x2, y2] in original pixels, top left first"
        )
    if not sample.images:
        raise ValueError("the row has no image to find a box in")
