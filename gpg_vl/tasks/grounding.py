"""Where things are: one box or several in the first image, scored by their overlap with the gold boxes.

Rows hold boxes in original pixels, one as ``[x1, y1, x2, y2]`` or a list of them; the model is asked, and answers, in
its own frame.
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
    describe_boxes,
    describe_frame,
    gold_in_image,
    in_notation,
    pair_boxes,
)
from gpg_vl.tasks.legacy.grounding import GROUNDING
from gpg_vl.verifiers.box_text import parse_answered, parse_boxes
from gpg_vl.verifiers.box_values import parse_box
from gpg_vl.verifiers.boxes import LATE_IMPORTS


class Grounding(Task):
    name = "grounding"
    metric = "miou"
    main_part = "iou"
    weights: ClassVar[Mapping[str, float]] = {"iou": 1.0, "format": 0.2}
    late_imports = LATE_IMPORTS
    legacy = GROUNDING

    def ask(self, sample: Sample, views: Sequence[ImageView]) -> str:
        """Asks for one box or for a list, as the row's gold answer is written; never for how many."""
        is_one = _asks_for_one(sample.answer)
        wanted = f"{'one box' if is_one else 'a list of boxes'} {describe_boxes(views, is_one=is_one)}"
        return f"{sample.question}\n{FORMAT_REQUEST} The final answer is {wanted} {describe_frame(views)}."

    def read(self, answer: str, sample: Sample, views: Sequence[ImageView]) -> list[Box] | None:
        """The boxes in original pixels; None unless each has an area and lies in the image.

        Where one box is asked for, several without a list around them are several answers.
        """
        found = parse_answered(answer_in_numbers(answer, views[0]))
        if found is None or not found.boxes:
            return None
        if len(found.boxes) > 1 and not found.is_list and _asks_for_one(sample.answer):
            return None
        return boxes_in_image(found.boxes, views[0])

    def score(self, answer: Sequence[Box], sample: Sample, views: Sequence[ImageView]) -> dict[str, float]:
        """Sum of what each box adds under the best one-to-one assignment / the larger of the two counts."""
        gold = _gold_boxes(sample.answer)
        return {"iou": sum(pair.iou for pair in pair_boxes(answer, gold, views[0])) / max(len(answer), len(gold))}

    def gold(self, sample: Sample, views: Sequence[ImageView]) -> str:
        boxes = [box_to_text(box, views[0]) for box in gold_in_image(_gold_boxes(sample.answer), views[0])]
        return in_notation(boxes, views[0], is_one=_asks_for_one(sample.answer))

    def check(self, sample: Sample) -> None:
        check_boxes(sample, parse_boxes(sample.answer))


@functools.lru_cache(maxsize=4096)
def _asks_for_one(answer: str) -> bool:
    return parse_box(answer) is not None


@functools.lru_cache(maxsize=4096)
def _gold_boxes(answer: str) -> tuple[Box, ...]:
    return tuple(parse_boxes(answer) or ())
