"""Where a thing is: one box around it in the first image, scored by its overlap with the gold box.

Rows hold the box in original pixels; the model is asked, and answers, in its own frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, floor, inf
from typing import ClassVar

from gpg_vl.records import Box, ImageView, Sample
from gpg_vl.tasks.base import FORMAT_REQUEST, Task
from gpg_vl.verifiers.boxes import clip_box, iou, is_inside, is_ordered, parse_box

EDGE_TOLERANCE = 1.0
"""Original pixels that a corner may lie outside of the image; it is moved back to the edge before scoring."""


class Grounding(Task):
    name = "grounding"
    metric = "miou"
    main_part = "iou"
    weights: ClassVar[Mapping[str, float]] = {"iou": 1.0, "format": 0.2}

    def ask(self, sample: Sample, views: Sequence[ImageView]) -> str:
        view = views[0]
        if view.frame == "grid_1000":
            frame = "on a grid from 0 to 1000 over the image"
        else:
            frame = f"in pixels of the {view.model_width} x {view.model_height} image"
        return f"{sample.question}\n{FORMAT_REQUEST} The final answer is one box [x1, y1, x2, y2] {frame}."

    def read(self, answer: str, sample: Sample, views: Sequence[ImageView]) -> Box | None:
        """The box in original pixels; None unless it has an area and lies in the image."""
        parsed = parse_box(answer)
        if parsed is None:
            return None
        view = views[0]
        box = view.to_original(parsed)
        if not is_inside(box, view.width, view.height, EDGE_TOLERANCE):
            return None
        clipped = clip_box(box, view.width, view.height)
        return clipped if is_ordered(clipped) else None

    def score(self, answer: Box, sample: Sample, views: Sequence[ImageView]) -> dict[str, float]:
        return {"iou": iou(answer, _gold_box(sample))}

    def gold(self, sample: Sample, views: Sequence[ImageView]) -> str:
        """The gold box in whole units of the model's frame; a side shorter than that becomes one unit long."""
        x1, y1, x2, y2 = views[0].to_model(_gold_box(sample))
        left, right = _round_side(x1, x2)
        top, bottom = _round_side(y1, y2)
        return f"[{left}, {top}, {right}, {bottom}]"

    def check(self, sample: Sample) -> None:
        _gold_box(sample)
        if not sample.images:
            raise ValueError("the row has no image to find a box in")


def _gold_box(sample: Sample) -> Box:
    box = parse_box(sample.answer)
    if box is None or not is_ordered(box) or not is_inside(box, inf, inf):
        raise ValueError(
            f"the answer {sample.answer[:60]!r} is no box; write [x1, y1, x2, y2] in original pixels, top left first"
        )
    return box


def _round_side(low: float, high: float) -> tuple[int, int]:
    """Both ends to the nearest unit, but never to the same: the box keeps an area."""
    if round(low) < round(high):
        return round(low), round(high)
    return floor(low), ceil(high)
