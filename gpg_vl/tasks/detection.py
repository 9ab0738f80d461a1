"""All things of a kind in the first image: boxes with confidences, or ``No Objects``.

Rows hold boxes in original pixels, as a list of boxes or of ``{'Position': [x1, y1, x2, y2], 'Confidence': 1}``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from gpg_vl.records import Box, ImageView, Sample
from gpg_vl.tasks.base import FORMAT_REQUEST, Task
from gpg_vl.tasks.boxes import boxes_in_image, check_boxes, describe_frame, write_box
from gpg_vl.tasks.legacy.detection import DETECTION
from gpg_vl.verifiers.box_text import NO_OBJECTS, Detection, parse_detections
from gpg_vl.verifiers.boxes import assign_boxes, assigned_iou

HIT_IOU = 0.5


class DetectionTask(Task):
    name = "detection"
    metric = "miou"
    main_part = "iou"
    weights: ClassVar[Mapping[str, float]] = {"iou": 1.0, "confidence": 0.2, "format": 0.2}
    legacy = DETECTION

    def ask(self, sample: Sample, views: Sequence[ImageView]) -> str:
        return (
            f"{sample.question}\n{FORMAT_REQUEST} The final answer is a list with every object, "
            f"[{{'Position': [x1, y1, x2, y2], 'Confidence': c}}, ...], coordinates {describe_frame(views)} and "
            f"confidence from 0 to 1, or {NO_OBJECTS} where there is none."
        )

    def read(self, answer: str, sample: Sample, views: Sequence[ImageView]) -> list[Detection] | None:
        """The detections in original pixels, [] for none; None unless each box has an area and lies in the image."""
        found = parse_detections(answer)
        boxes = None if found is None else boxes_in_image([detection.box for detection in found], views[0])
        if found is None or boxes is None:
            return None
        return [Detection(box, detection.confidence) for box, detection in zip(boxes, found, strict=True)]

    def score(self, answer: Sequence[Detection], sample: Sample, views: Sequence[ImageView]) -> dict[str, float]:
        gold = _gold_boxes(sample)
        overlap = assigned_iou([detection.box for detection in answer], gold)
        return {"iou": overlap, "confidence": _confidence_part(answer, gold)}

    def gold(self, sample: Sample, views: Sequence[ImageView]) -> str:
        entries = [{"Position": write_box(box, views[0]), "Confidence": 1} for box in _gold_boxes(sample)]
        return str(entries) if entries else NO_OBJECTS

    def check(self, sample: Sample) -> None:
        found = parse_detections(sample.answer)
        check_boxes(sample, None if found is None else [detection.box for detection in found])


def _gold_boxes(sample: Sample) -> list[Box]:
    return [detection.box for detection in parse_detections(sample.answer) or []]


def _confidence_part(answer: Sequence[Detection], gold: Sequence[Box]) -> float:
    """How well confidences tell hits (IoU of half or more) from misses, in [0, 1]: a quadratic score, so that saying
    the true chance is best. A miss never gains, whatever its confidence, and a missing box costs as in the IoU part."""
    most = max(len(answer), len(gold))
    pairs = assign_boxes([detection.box for detection in answer], gold)
    hits = {pair.answered for pair in pairs if pair.iou >= HIT_IOU}
    gains = [
        detection.confidence * (2 - detection.confidence) if index in hits else -(detection.confidence**2)
        for index, detection in enumerate(answer)
    ]
    return min(1.0, max(0.0, sum(gains) / most)) if most else 1.0
