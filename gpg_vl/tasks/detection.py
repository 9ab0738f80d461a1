"""All things of a kind in the first image: boxes with confidences, or ``No Objects``.

Rows hold boxes in original pixels, as a list of boxes or of ``{'Position': [x1, y1, x2, y2], 'Confidence': 1}``.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import ClassVar

from gpg_vl.records import Box, ImageView, Sample
from gpg_vl.tasks.base import FORMAT_REQUEST, Task
from gpg_vl.tasks.box_answers import (
    answer_in_numbers,
    box_to_text,
    boxes_in_image,
    check_boxes,
    describe_box,
    describe_frame,
    gold_in_image,
    pair_boxes,
)
from gpg_vl.tasks.legacy.detection import DETECTION
from gpg_vl.verifiers.box_text import NO_OBJECTS, DetectedBox, parse_detections
from gpg_vl.verifiers.boxes import LATE_IMPORTS

HIT_IOU = 0.5


class Detection(Task):
    name = "detection"
    metric = "miou"
    main_part = "iou"
    weights: ClassVar[Mapping[str, float]] = {"iou": 1.0, "confidence": 0.2, "format": 0.2}
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"confidence": (-1.0, 1.0)}
    late_imports = LATE_IMPORTS
    legacy = DETECTION

    def ask(self, sample: Sample, views: Sequence[ImageView]) -> str:
        return (
            f"{sample.question}\n{FORMAT_REQUEST} The final answer is a list with every object, "
            f"[{{'Position': {describe_box(views)}, 'Confidence': c}}, ...], coordinates {describe_frame(views)} and "
            f"confidence from 0 to 1, or {NO_OBJECTS} where there is none."
        )

    def read(self, answer: str, sample: Sample, views: Sequence[ImageView]) -> list[DetectedBox] | None:
        """The detections in original pixels, [] for none; None unless each box has an area and lies in the image."""
        found = parse_detections(answer_in_numbers(answer, views[0]))
        boxes = None if found is None else boxes_in_image([detection.box for detection in found], views[0])
        if found is None or boxes is None:
            return None
        return [DetectedBox(box, detection.confidence) for box, detection in zip(boxes, found, strict=True)]

    def score(self, answer: Sequence[DetectedBox], sample: Sample, views: Sequence[ImageView]) -> dict[str, float]:
        """The overlap of the hits, and how well the confidences tell hits from misses.

        Where several boxes are asked for, one that overlaps by less than half is a miss and adds nothing: else a box
        over the whole picture, said with hardly any confidence, would fill up the count.
        """
        gold = _gold_boxes(sample.answer)
        most = max(len(answer), len(gold))
        if not most:
            return {"iou": 1.0, "confidence": 1.0}
        boxes = [detection.box for detection in answer]
        pairs = pair_boxes(boxes, gold, views[0], least=HIT_IOU if len(gold) > 1 else 0.0)
        hits = [pair for pair in pairs if pair.iou >= HIT_IOU]
        counted = hits if len(gold) > 1 else pairs
        return {
            "iou": sum(pair.iou for pair in counted) / most,
            "confidence": _confidence_part(answer, {pair.answered for pair in hits}, most),
        }

    def gold(self, sample: Sample, views: Sequence[ImageView]) -> str:
        boxes = gold_in_image(_gold_boxes(sample.answer), views[0])
        entries = [f"{{'Position': {box_to_text(box, views[0])}, 'Confidence': 1}}" for box in boxes]
        return f"[{', '.join(entries)}]" if entries else NO_OBJECTS

    def check(self, sample: Sample) -> None:
        found = parse_detections(sample.answer)
        check_boxes(sample, None if found is None else [detection.box for detection in found])


@functools.lru_cache(maxsize=4096)
def _gold_boxes(answer: str) -> tuple[Box, ...]:
    return tuple(detection.box for detection in parse_detections(answer) or ())


def _confidence_part(answer: Sequence[DetectedBox], hits: set[int], most: int) -> float:
    """A quadratic score over all boxes, in [-1, 1]: a hit gains c(2 - c), a miss loses c².

    With a chance p of a hit the expectation is 2pc - c², which is largest at c = p, where it is p²: no box can lose by
    being said with the right confidence, one said with confidence 0 earns nothing, and saying any other chance costs
    (c - p)². It is never cut, so this holds for any number of boxes (docs/rewards.md).
    """
    gains = [
        detection.confidence * (2 - detection.confidence) if index in hits else -(detection.confidence**2)
        for index, detection in enumerate(answer)
    ]
    return sum(gains) / most
