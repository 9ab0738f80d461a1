"""Where things are: one box or several in the first image, scored by their overlap with the gold boxes.

Rows hold boxes in original pixels, one as ``[x1, y1, x2, y2]`` or a list of them; the model is asked, and answers, in
its own frame.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import ClassVar

from gpg_vl.records import Box, ImageView, Sample
from gpg_vl.tasks.base import FORMAT_REQUEST, Task
from gpg_vl.tasks.boxes import boxes_in_image, check_boxes, describe_frame, write_box
from gpg_vl.tasks.legacy.grounding import GROUNDING
from gpg_vl.verifiers.box_text import parse_box, parse_boxes
from gpg_vl.verifiers.boxes import assigned_iou


class Grounding(Task):
    name = "grounding"
    metric = "miou"
    main_part = "iou"
    weights: ClassVar[Mapping[str, float]] = {"iou": 1.0, "format": 0.2}
    legacy = GROUNDING

    def ask(self, sample: Sample, views: Sequence[ImageView]) -> str:
        """Asks for one box or for a list, as the row's gold answer is written; never for how many."""
        is_one = parse_box(sample.answer) is not None
        wanted = "one box [x1, y1, x2, y2]" if is_one else "a list of boxes [[x1, y1, x2, y2], ...]"
        return f"{sample.question}\n{FORMAT_REQUEST} The final answer is {wanted} {describe_frame(views)}."

    def read(self, answer: str, sample: Sample, views: Sequence[ImageView]) -> list[Box] | None:
        """The boxes in original pixels; None unless each has an area and lies in the image."""
        boxes = parse_boxes(answer)
        return None if boxes is None else boxes_in_image(boxes, views[0])

    def score(self, answer: Sequence[Box], sample: Sample, views: Sequence[ImageView]) -> dict[str, float]:
        """Sum of IoU under the best one-to-one assignment / the larger of the two counts."""
        return {"iou": assigned_iou(answer, parse_boxes(sample.answer) or [])}

    def gold(self, sample: Sample, views: Sequence[ImageView]) -> str:
        boxes = [write_box(box, views[0]) for box in parse_boxes(sample.answer) or []]
        return json.dumps(boxes[0] if parse_box(sample.answer) is not None else boxes)

    def check(self, sample: Sample) -> None:
        check_boxes(sample, parse_boxes(sample.answer))
