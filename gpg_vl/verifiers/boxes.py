"""Reads and compares boxes in plain Python. A box is x1, y1, x2, y2 with the origin at the image's top left."""

from __future__ import annotations

import re

from gpg_vl.records import Box

MAX_CHARS = 256

_NUMBER = r"\s*([+-]?[0-9]{1,9}(?:\.[0-9]{1,18})?)\s*"
_LIST = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")
_CORNERS = re.compile(rf"\({_NUMBER},{_NUMBER}\)\s*,\s*\({_NUMBER},{_NUMBER}\)")


def parse_box(text: str) -> Box | None:
    """The one box that the text is, in any order of its corners; whitespace aside, nothing else may stand.

    >>> parse_box("[1, 2, 30.5, 40]"), parse_box("(1,2),(30,40)"), parse_box("[1, 2, 30]")
    ((1.0, 2.0, 30.5, 40.0), (1.0, 2.0, 30.0, 40.0), None)
    """
    stripped = text.strip()
    if len(stripped) > MAX_CHARS:
        return None
    match = _LIST.fullmatch(stripped) or _CORNERS.fullmatch(stripped)
    if match is None:
        return None
    x1, y1, x2, y2 = map(float, match.groups())
    return (x1, y1, x2, y2)


def is_ordered(box: Box) -> bool:
    """Whether the first corner is left of and above the second, so that the box has an area."""
    x1, y1, x2, y2 = box
    return x1 < x2 and y1 < y2


def is_inside(box: Box, width: float, height: float, tolerance: float = 0.0) -> bool:
    """Whether both corners lie in a width x height image, or at most ``tolerance`` outside of it."""
    x1, y1, x2, y2 = box
    return all(-tolerance <= x <= width + tolerance for x in (x1, x2)) and all(
        -tolerance <= y <= height + tolerance for y in (y1, y2)
    )


def clip_box(box: Box, width: float, height: float) -> Box:
    """The box with its corners moved to the nearest point of a width x height image."""
    x1, y1, x2, y2 = box
    return (min(max(x1, 0), width), min(max(y1, 0), height), min(max(x2, 0), width), min(max(y2, 0), height))


def iou(a: Box, b: Box) -> float:
    """Intersection over union in [0, 1]; 0 where either box has no area."""
    if not is_ordered(a) or not is_ordered(b):
        return 0.0
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    union = _area(a) + _area(b) - shared
    return min(1.0, shared / union) if union > 0 else 0.0


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
