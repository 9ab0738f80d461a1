"""Compares boxes: overlap, assignment, hits. A box is x1, y1, x2, y2 with the origin at the image's top left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy

from gpg_vl.records import Box

LATE_IMPORTS = ("scipy.optimize",)
"""It takes 0.2 s to import, and a process without it forks faster."""


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
    shared = _shared_area(a, b)
    union = _area(a) + _area(b) - shared
    return min(1.0, shared / union) if union > 0 else 0.0


def giou(a: Box, b: Box) -> float:
    """Generalised IoU in [-1, 1] (Rezatofighi et al. 2019, arXiv 1902.09630); -1 where either box has no area."""
    if not is_ordered(a) or not is_ordered(b):
        return -1.0
    union = _area(a) + _area(b) - _shared_area(a, b)
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return max(-1.0, iou(a, b) - max(0.0, hull - union) / hull) if hull > 0 else iou(a, b)


def _shared_area(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def iou_matrix(left: Sequence[Box], right: Sequence[Box]) -> numpy.ndarray:
    """IoU of every pair, [len(left), len(right)] float64; 0 where either box has no area."""
    a = numpy.asarray(left, dtype=float).reshape(-1, 1, 4)
    b = numpy.asarray(right, dtype=float).reshape(1, -1, 4)
    sides = numpy.minimum(a[..., 2:], b[..., 2:]) - numpy.maximum(a[..., :2], b[..., :2])
    shared = numpy.where((sides > 0).all(-1), sides.prod(-1), 0.0)
    union = _areas(a) + _areas(b) - shared
    has_area = (_areas(a) > 0) & (_areas(b) > 0)
    overlaps = numpy.divide(shared, union, out=numpy.zeros_like(shared), where=has_area & (union > 0))
    return numpy.minimum(overlaps, 1.0)


def _areas(boxes: numpy.ndarray) -> numpy.ndarray:
    sides = boxes[..., 2:] - boxes[..., :2]
    return numpy.where((sides > 0).all(-1), sides.prod(-1), 0.0)


def assign(overlaps: numpy.ndarray) -> list[tuple[int, int]]:
    """Rows with columns, one to one, so that the sum of the overlaps is the largest (Hungarian method)."""
    if 1 in overlaps.shape:
        best = int(overlaps.argmax())
        return [(best, 0) if overlaps.shape[1] == 1 else (0, best)]
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(overlaps, maximize=True)
    return [(int(row), int(column)) for row, column in zip(rows, columns, strict=True)]


@dataclass(frozen=True, slots=True)
class BoxPair:
    """An answered box with the gold box that it stands for, by position."""

    answered: int
    gold: int
    iou: float


def assign_boxes(answered: Sequence[Box], gold: Sequence[Box]) -> list[BoxPair]:
    """The one-to-one assignment with the largest sum of IoU (Hungarian method), without pairs that do not overlap."""
    if not answered or not gold:
        return []
    overlaps = iou_matrix(answered, gold)
    pairs = (BoxPair(i, j, float(overlaps[i, j])) for i, j in assign(overlaps))
    return [pair for pair in pairs if pair.iou > 0]


def assigned_iou(answered: Sequence[Box], gold: Sequence[Box]) -> float:
    """Sum of IoU of the assigned boxes / the larger number of boxes, in [0, 1]: surplus and missing boxes cost alike.

    No box for no gold box is 1.
    """
    most = max(len(answered), len(gold))
    return sum(pair.iou for pair in assign_boxes(answered, gold)) / most if most else 1.0


def added_overlaps(answered: Sequence[Box], gold: Sequence[Box], overlaps: numpy.ndarray) -> list[BoxPair]:
    """The assigned pairs, each with the share of its gold box that the answered box adds to those before it.

    Pairs come in descending overlap. If ``m`` is the largest overlap of the gold box with a box of an earlier pair, a
    box of overlap ``i`` adds (i - m) / (1 - m), at least 0: alone the overlap itself, 1 for a perfect box, 0 for a
    copy. So a copy earns nothing from a second gold box that lies close to the first.

    Args:
        overlaps: what counts as the overlap of each pair, [len(answered), len(gold)] float64 in [0, 1]
    """
    pairs = [(float(overlaps[i, j]), i, j) for i, j in assign(overlaps) if overlaps[i, j] > 0]
    pairs.sort(key=lambda pair: (-pair[0], pair[1]))
    added = []
    before: list[Box] = []
    for overlap, row, column in pairs:
        taken = max((iou(box, gold[column]) for box in before), default=0.0)
        added.append(
            BoxPair(row, column, 1.0 if overlap >= 1 else max(0.0, overlap - taken) / (1 - taken) if taken < 1 else 0.0)
        )
        before.append(answered[row])
    return [pair for pair in added if pair.iou > 0]
