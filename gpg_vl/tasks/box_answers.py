"""What tasks with boxes share: boxes in the model's way of writing, in original pixels, and their overlaps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil, floor, inf
from typing import Any

import numpy

from gpg_vl.records import Box, Frame, ImageView, Notation, Sample
from gpg_vl.verifiers.box_values import to_original
from gpg_vl.verifiers.boxes import BoxPair, added_overlaps, clip_box, iou, iou_matrix, is_inside, is_ordered
from gpg_vl.verifiers.location_tokens import LAST_LOCATION, locations_to_numbers, numbers_to_locations

EDGE_PIXELS = 1.0
"""Original pixels that a gold corner may lie outside of the image; it is moved back to the edge."""
EDGE_UNITS: dict[Frame, float] = {
    "grid_1000": 2.0, "grid_1000_y_first": 2.0, "loc_1024": 0.0, "unit": 0.002, "resized_pixels": 1.0
}  # fmt: skip
"""How far an answered corner may lie outside, in the model's frame: on the grid a gold pixel past the edge of a picture
of 640 is 1002."""
_DECIMALS: dict[Frame, int] = {"unit": 3}
"""Of the numbers of a box; none where a frame is left out."""
_ROUNDING = 1e-6
_NOTATIONS: dict[Notation, Callable[[str], str]] = {
    "list": str,
    "lists": str,
    "bbox_2d": lambda box: f'{{"bbox_2d": {box}}}',
    "box_tags": lambda box: f"<box>{box.strip('[]').replace(',', '')}</box>",
}


def describe_frame(views: Sequence[ImageView]) -> str:
    """The frame in which the model must give coordinates of the first image, for the end of a sentence.

    Raises:
        ValueError: there is no image
    """
    if not views:
        raise ValueError("the row has no image to find a box in")
    view = views[0]
    if view.known_frame() == "resized_pixels":
        return f"in pixels of the {view.model_width} x {view.model_height} image"
    if view.frame == "loc_1024":
        return f"in location tokens from <loc0000> to <loc{LAST_LOCATION}> over the image"
    if view.frame == "unit":
        return "as fractions of the image's sides from 0 to 1, with three decimals"
    return "on a grid from 0 to 1000 over the image"


def describe_box(views: Sequence[ImageView]) -> str:
    """The numbers of a box of the first image as the model writes them, with names in place of them.

    Raises:
        ValueError: there is no image
    """
    if not views:
        raise ValueError("the row has no image to find a box in")
    if views[0].known_frame() == "loc_1024":
        return "<locY1><locX1><locY2><locX2>"
    return "[y1, x1, y2, x2]" if views[0].is_y_first else "[x1, y1, x2, y2]"


def describe_boxes(views: Sequence[ImageView], *, is_one: bool) -> str:
    """How the model writes one box of the first image, or several, with names in place of numbers.

    Raises:
        ValueError: there is no image
    """
    box = describe_box(views)
    return in_notation([box] if is_one else [box, "..."], views[0], is_one=is_one)


def in_notation(boxes: Sequence[str], view: ImageView, *, is_one: bool) -> str:
    """Boxes that are written as lists of numbers, or as location tokens, in the model's notation.

    Args:
        is_one: whether one box is asked for; a single box of several stands in a list
    """
    notation = "list" if view.known_frame() == "loc_1024" else view.notation
    written = [_NOTATIONS[notation](box) if box != "..." else box for box in boxes]
    return written[0] if is_one and notation != "lists" else f"[{', '.join(written)}]"


def answer_in_numbers(answer: str, view: ImageView) -> str:
    """An answer with its location tokens as lists of numbers, where the model writes such tokens."""
    return locations_to_numbers(answer) if view.known_frame() == "loc_1024" else answer


def boxes_in_image(boxes: Sequence[Box], view: ImageView) -> list[Box] | None:
    """Boxes of the model's frame in original pixels; None unless every one has an area and lies in the image.

    A corner may lie outside by a step or two of the model's frame (``EDGE_UNITS``): it is moved back to the edge.
    """
    found = []
    for in_frame in boxes:
        box = to_original(in_frame, view)
        clipped = clip_box(box, view.width, view.height)
        if not _is_near(box, view) or not is_ordered(clipped):
            return None
        found.append(clipped)
    return found


def _is_near(box: Box, view: ImageView) -> bool:
    """Whether a box of original pixels lies in the image, or beyond its edges by no more than is allowed."""
    x1, y1, x2, y2 = box
    units = EDGE_UNITS[view.known_frame()] + _ROUNDING
    _, _, beyond_x, beyond_y = view.to_original((0.0, 0.0, units, units))
    return -beyond_x <= x1 and x2 <= view.width + beyond_x and -beyond_y <= y1 and y2 <= view.height + beyond_y


def gold_in_image(boxes: Sequence[Box], view: ImageView) -> list[Box]:
    """A row's gold boxes with their corners moved to the edge of the image.

    Raises:
        ValueError: a box lies outside
    """
    clipped = [clip_box(box, view.width, view.height) for box in boxes]
    for box, inside in zip(boxes, clipped, strict=True):
        if not is_ordered(inside) or not is_inside(box, view.width, view.height, EDGE_PIXELS):
            raise ValueError(f"the box {list(box)} is outside the {view.width} x {view.height} image; correct the row")
    return clipped


def pair_boxes(answered: Sequence[Box], gold: Sequence[Box], view: ImageView, least: float = 0.0) -> list[BoxPair]:
    """The assigned pairs with what each answered box adds (``added_overlaps``).

    A gold box as the model's frame can write it, in its steps, overlaps fully: no model can be more exact.

    Args:
        least: a smaller overlap counts as 0
    """
    clipped = [clip_box(box, view.width, view.height) for box in gold]
    if not answered or not gold:
        return []
    written = [_as_written(box, view) for box in clipped]
    if len(answered) == len(gold) == 1:
        overlap = 1.0 if answered[0] == written[0] else iou(answered[0], clipped[0])
        return [BoxPair(0, 0, overlap)] if overlap > 0 and overlap >= least else []
    overlaps = iou_matrix(answered, clipped)
    for column, box in enumerate(written):
        for row, other in enumerate(answered):
            if other == box:
                overlaps[row, column] = 1.0
    return added_overlaps(answered, clipped, numpy.where(overlaps >= least, overlaps, 0.0))


def _as_written(box: Box, view: ImageView) -> Box | None:
    """The gold box after it was written in the model's frame and read again."""
    x1, y1, x2, y2 = map(float, write_box(box, view)) if is_ordered(box) else (0.0, 0.0, 0.0, 0.0)
    found = boxes_in_image([(x1, y1, x2, y2)], view)
    return found[0] if found else None


def write_box(box: Box, view: ImageView) -> list[float]:
    """A box of original pixels in the numbers that the model's frame has, whole ones or with its decimals.

    A side shorter than the step between two of them becomes one step long.
    """
    scale = 10 ** _decimals(view)
    first, second, third, fourth = (scale * edge for edge in view.to_model(box))
    most = LAST_LOCATION if view.frame == "loc_1024" else None
    (low, high), (start, end) = _round_side(first, third, most), _round_side(second, fourth, most)
    return [number / scale if scale > 1 else number for number in (low, start, high, end)]


def _decimals(view: ImageView) -> int:
    return _DECIMALS.get(view.known_frame(), 0)


def box_to_text(box: Box, view: ImageView) -> str:
    """A box of original pixels as a list of the model's numbers, or as its location tokens."""
    numbers = write_box(box, view)
    if view.frame == "loc_1024":
        return numbers_to_locations([int(number) for number in numbers])
    return f"[{', '.join(f'{number:.{_decimals(view)}f}' for number in numbers)}]"


def _round_side(low: float, high: float, most: int | None) -> tuple[int, int]:
    """Both ends to the nearest step, up to ``most``, but never to the same: the box keeps an area."""
    start, end = (round(low), round(high)) if round(low) < round(high) else (floor(low), ceil(high))
    end = end if most is None else min(end, most)
    return min(start, end - 1), end


def check_boxes(sample: Sample, boxes: Sequence[Box] | None) -> None:
    """Raises ``ValueError`` where a row's gold boxes cannot be ones of original pixels, or the row has no image.

    A row with the columns ``width`` and ``height`` may have no box beyond them by more than a pixel.
    """
    width, height = _size_of(sample.meta)
    if boxes is None or not all(is_ordered(box) and is_inside(box, inf, inf) for box in boxes):
        raise ValueError(
            f"the answer {sample.answer[:60]!r} is not a box; write [x1, y1, x2, y2] in original pixels, top left first"
        )
    if boxes and all(max(box) <= 1 for box in boxes):
        raise ValueError(
            f"the answer {sample.answer[:60]!r} has no coordinate above 1, as normalised boxes have; "
            "write boxes in original pixels"
        )
    if not all(is_inside(box, width, height, EDGE_PIXELS) for box in boxes):
        raise ValueError(
            f"the answer {sample.answer[:60]!r} has a box beyond the {width:g} x {height:g} image; "
            "write boxes in original pixels"
        )
    if not sample.images:
        raise ValueError("the row has no image to find a box in")


def _size_of(meta: Mapping[str, Any]) -> tuple[float, float]:
    width, height = meta.get("width"), meta.get("height")
    known = all(isinstance(side, int | float) and side > 0 for side in (width, height))
    return (float(width), float(height)) if known and width is not None and height is not None else (inf, inf)
