"""Visual-RFT's scorers of reasoning grounding (LISA): GIoU + 1 as the reward, IoU of the first box as the metric.

Boxes are in the frame that the model uses, the gold one truncated to whole units (published: the 0-1000 grid).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from gpg_vl.records import Box, ImageView, Sample
from gpg_vl.tasks.base import LegacyScorer
from gpg_vl.verifiers.box_text import parse_boxes
from gpg_vl.verifiers.published_maths import published_match
from gpg_vl.verifiers.published_text import first_answer_across_lines, has_published_format

SCALE = 1000
EPSILON = 1e-6  # in the metric's denominator
MAX_DIGITS = 18  # of a coordinate

_CORNERS = re.compile(r"\(\s*(\d+)\s*,\s*(\d+)\s*\)\s*,\s*\(\s*(\d+)\s*,\s*(\d+)\s*\)")


def _reward(text: str, sample: Sample, views: Sequence[ImageView]) -> dict[str, float]:
    """GIoU + 1: 2 for the gold box, above 2 for some that are not boxes, below 0 for others; and the format."""
    gold = _gold_box(sample, views)
    solution = "({},{}),({},{})".format(*gold)
    answer = first_answer_across_lines(text)
    if published_match(text, f"<answer> {solution} </answer>"):
        accuracy = 1.0
    else:
        accuracy = _giou_reward(text if answer is None else answer, gold)
    return {"accuracy": accuracy, "format": float(has_published_format(text))}


def _giou_reward(answer: str, gold: Sequence[int]) -> float:
    if answer.strip() == "({},{}),({},{})".format(*gold):
        return 2.0
    matches = _CORNERS.findall(answer)
    if not matches:
        return 0.0
    try:
        numbers = [[int(digits) / SCALE for digits in match] for match in matches]
        # Published: all first corners, then all second ones, of which items 0 and 1 are taken for a box.
        corners = [(x, y) for x, y, _, _ in numbers] + [(x, y) for _, _, x, y in numbers]
        return _published_giou((*corners[0], *corners[1]), _scaled(gold)) + 1
    except (ValueError, OverflowError, ZeroDivisionError):  # the published code catches everything and gives 0
        return 0.0


def _published_giou(a: Box, b: Box) -> float:
    """GIoU without a check that corners are ordered, so that areas and hulls may be anything."""
    shared = _shared_area(a, b)
    union = _area(a) + _area(b) - shared
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return shared / union - (hull - union) / hull


def _metric(text: str, sample: Sample, views: Sequence[ImageView]) -> float:
    """IoU of the first box anywhere in the output, the reasoning included; 0 if there is none."""
    answered = _first_box(text)
    if answered is None:
        return 0.0
    answered, gold = _scaled(answered), _scaled(views[0].to_model(_row_box(sample)))
    shared = _shared_area(answered, gold)
    return min(1.0, max(0.0, shared / (_area(answered) + _area(gold) - shared + EPSILON)))


def published_box(text: str, view: ImageView) -> Box | None:
    """The box that the published evaluation asks SAM about, in whole original pixels; None if there is none."""
    answered = _first_box(text)
    if answered is None:
        return None
    x1, y1, x2, y2 = (float(int(value)) for value in view.to_original(answered))
    return (x1, y1, x2, y2)


def _first_box(text: str) -> Box | None:
    """The first one anywhere in the output, in the model's frame."""
    match = _CORNERS.search(text)
    if match is None or any(len(digits) > MAX_DIGITS for digits in match.groups()):
        return None
    x1, y1, x2, y2 = (float(digits) for digits in match.groups())
    return (x1, y1, x2, y2)


def _shared_area(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _scaled(box: Sequence[float]) -> Box:
    x1, y1, x2, y2 = (value / SCALE for value in box)
    return (x1, y1, x2, y2)


def _gold_box(sample: Sample, views: Sequence[ImageView]) -> list[int]:
    return [int(value) for value in views[0].to_model(_row_box(sample))]


def _row_box(sample: Sample) -> Box:
    boxes = parse_boxes(sample.answer)
    if not boxes:
        raise ValueError(f"the answer {sample.answer[:60]!r} holds no box")
    return boxes[0]  # published rows have one


GROUNDING = LegacyScorer(_reward, _metric)
