"""Visual-RFT's scorer of detection: greedy IoU and confidence over boxes on the 0-1000 grid.

The published figure is COCO's or LVIS' AP, a property of a data set; per completion the metric here is the IoU part.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from gpg_vl.records import Box, ImageView, Sample
from gpg_vl.tasks.base import LegacyScorer
from gpg_vl.verifiers.box_text import DetectedBox, parse_detections
from gpg_vl.verifiers.boxes import iou
from gpg_vl.verifiers.published_maths import published_match
from gpg_vl.verifiers.published_text import first_answer_on_a_line, has_published_format

MATCH_IOU = 0.5
MAX_CHARS = 65_536
MAX_PIXELS = 1e9  # of a coordinate: beyond it, areas overflow


class _Match(NamedTuple):
    iou: float  # 0 where the box matches none
    confidence: float


def _reward(text: str, sample: Sample, views: Sequence[ImageView]) -> dict[str, float]:
    """The three published parts; both of the first two are 1 if math-verify finds the gold's first y1."""
    gold = _gold_boxes(sample, views)
    if published_match(text, _solution(gold)):
        parts = {"iou": 1.0, "confidence": 1.0}
    else:
        answer = first_answer_on_a_line(text)
        matches = _match(_read_answer(text if answer is None else answer), gold)
        parts = {"iou": _iou_part(matches, len(gold)), "confidence": _confidence_part(matches)}
    return {**parts, "format": float(has_published_format(text))}


def _metric(text: str, sample: Sample, views: Sequence[ImageView]) -> float:
    return _reward(text, sample, views)["iou"]


def _gold_boxes(sample: Sample, views: Sequence[ImageView]) -> list[Box]:
    """The gold boxes in whole units of the frame that the model uses (published: the 0-1000 grid)."""
    boxes = []
    for detection in parse_detections(sample.answer) or []:
        x1, y1, x2, y2 = (float(round(value)) for value in views[0].to_model(detection.box))
        boxes.append((x1, y1, x2, y2))
    return boxes


def _solution(gold: Sequence[Box]) -> str:
    entries = [{"Position": [int(value) for value in box], "Confidence": 1} for box in gold]
    return f"<answer>{entries if entries else 'No Objects'}</answer>"


def _read_answer(answer: str) -> list[Any]:
    """The published way to JSON: brackets undoubled, lines joined, cut after the last whole object, quotes swapped."""
    text = answer.strip().replace("[[", "[").replace("]]", "]").replace("\n", "")
    if not text.endswith("]"):
        text = text[: text.rfind("},") + 1] + "]"
    try:
        content = json.loads(text.replace("'", '"')) if len(text) <= MAX_CHARS else None
    except (ValueError, RecursionError):
        return []
    return content if isinstance(content, list) and content and isinstance(content[0], dict) else []


def _distinct_boxes(entries: Sequence[Any]) -> list[DetectedBox]:
    """In the model's frame; of equal ones the first."""
    try:
        distinct = {tuple(entry["Position"]): _confidence(entry) for entry in reversed(entries)}
        return [
            DetectedBox((float(x1), float(y1), float(x2), float(y2)), confidence)
            for (x1, y1, x2, y2), confidence in reversed(distinct.items())
        ]
    except (TypeError, ValueError, KeyError, OverflowError):  # the published code catches everything and gives 0
        return []


def published_boxes(text: str, view: ImageView) -> list[DetectedBox]:
    """The boxes of a completion as the published code reads them, in original pixels, for AP; corners in any order."""
    answer = first_answer_on_a_line(text)
    found = _distinct_boxes(_read_answer(text if answer is None else answer))
    boxes = [DetectedBox(view.to_original(each.box), each.confidence) for each in found]
    return [each for each in boxes if all(abs(edge) < MAX_PIXELS for edge in each.box)]


def _match(entries: Sequence[Any], gold: Sequence[Box]) -> list[_Match]:
    """In descending confidence, each box takes the free gold box that it overlaps most, if by more than half."""
    free = list(gold)
    matches = []
    for each in sorted(_distinct_boxes(entries), key=lambda found: -found.confidence):
        overlaps = [iou(each.box, other) for other in free]
        best = max(overlaps, default=0.0)
        if best > MATCH_IOU:
            del free[overlaps.index(best)]
        matches.append(_Match(best if best > MATCH_IOU else 0.0, each.confidence))
    return matches


def _confidence(entry: Any) -> float:
    try:
        value = float(entry["Confidence"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return 0.0
    return 0.0 if math.isnan(value) else value


def _iou_part(matches: Sequence[_Match], num_gold: int) -> float:
    most = max(num_gold, len(matches))
    return min(1.0, sum(match.iou for match in matches) / most) if matches and num_gold else 0.0


def _confidence_part(matches: Sequence[_Match]) -> float:
    if not matches:
        return 0.0
    scores = [match.confidence if match.iou > 0 else 1 - match.confidence for match in matches]
    mean = sum(scores) / len(scores)
    return 0.0 if math.isnan(mean) else min(1.0, max(0.0, mean))


DETECTION = LegacyScorer(_reward, _metric, {"iou": 1.0, "confidence": 1.0, "format": 1.0})
