"""LISA's reasoning grounding: mean box IoU on val and test; with a SAM model, also gIoU and cIoU of masks.

python -m eval.lisa --model PATH --data data/lisa --out runs/lisa/eval [--sam facebook/sam-vit-huge]
"""

from __future__ import annotations

import math
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from eval.benchmark import Benchmark, Figure, Figures, count_rows, figure_of, in_split, present
from eval.command import run
from eval.masks import BoxSegmenter, count_overlap, draw_polygons
from gpg_vl.evaluation.predictions import Prediction
from gpg_vl.evaluation.rows import EvaluationRow
from gpg_vl.evaluation.scores import Estimate, estimate
from gpg_vl.records import Box
from gpg_vl.screen import say
from gpg_vl.tasks import load_task
from gpg_vl.tasks.legacy.grounding import published_box
from gpg_vl.verifiers.answers import find_answer

if TYPE_CHECKING:
    from gpg_vl.evaluation.evaluate_model import Evaluation

POLYGONS = "polygons"  # key of meta: the gold polygons, each a list of [x, y] in original pixels


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--sam", help="transformers SAM model for gIoU and cIoU; default: these are not measured")


def make_figures(evaluation: Evaluation, options: Namespace) -> Figures:
    boxes = {split: figure_of(in_split(evaluation, split), "grounding", num) for split, num in BENCHMARK.splits.items()}
    figures = present({f"mIoU {split}": figure for split, figure in boxes.items()})
    try:
        segmenter = _load_segmenter(evaluation, options)
    except ValueError as error:
        say(f"gIoU and cIoU are not measured: {error}")
        return figures
    for split in dict.fromkeys(row.split for row in evaluation.rows):
        figures |= _mask_figures(evaluation, split, segmenter)
    return figures


def _load_segmenter(evaluation: Evaluation, options: Namespace) -> BoxSegmenter:
    """
    Raises:
        ValueError: masks cannot be measured; says why
    """
    if options.sam is None:
        raise ValueError("--sam names no SAM model")
    if not all(row.sample.meta.get(POLYGONS) for row in evaluation.rows):
        raise ValueError(f"the rows have no meta.{POLYGONS}; data_tools.lisa writes them")
    return BoxSegmenter(options.sam)


def _mask_figures(evaluation: Evaluation, split: str, segmenter: BoxSegmenter) -> Figures:
    """gIoU, the mean IoU of masks, and cIoU, total intersection over total union; for the strict and published box."""
    predictions = in_split(evaluation, split)
    pairs = [
        (row, prediction)
        for row, prediction in zip(evaluation.rows, evaluation.predictions, strict=True)
        if row.split == split
    ]
    (giou, ciou), (legacy_giou, legacy_ciou) = (
        _estimate_overlap([_overlap(*pair, read(*pair), segmenter) for pair in pairs], len(predictions))
        for read in (first_box, first_published_box)
    )
    rows = count_rows(predictions, BENCHMARK.splits[split])
    return {f"gIoU {split}": Figure(giou, legacy_giou, rows), f"cIoU {split}": Figure(ciou, legacy_ciou, rows)}


def _estimate_overlap(overlaps: Sequence[tuple[int, int]], num: int) -> tuple[Estimate, Estimate]:
    """gIoU and cIoU of ``num`` rows; those without an overlap were dropped, and the size of their masks is unknown."""
    per_image = [shared / union if union else 0.0 for shared, union in overlaps]
    cumulated = sum(shared for shared, _ in overlaps) / max(1, sum(union for _, union in overlaps))
    without_interval = Estimate(cumulated, None, None, len(overlaps))  # it is not a mean over rows
    return estimate(per_image + [0.0] * (num - len(overlaps))), without_interval


def _overlap(row: EvaluationRow, prediction: Prediction, box: Box | None, segmenter: BoxSegmenter) -> tuple[int, int]:
    """Pixels of intersection and union; if the image cannot be opened, the union is the gold mask."""
    polygons = row.sample.meta[POLYGONS]
    if not prediction.views:
        width, height = (math.ceil(max(point[axis] for each in polygons for point in each)) + 1 for axis in (0, 1))
        return count_overlap(None, draw_polygons(polygons, width, height))
    gold = draw_polygons(polygons, prediction.views[0].width, prediction.views[0].height)
    return count_overlap(None if box is None else segmenter.segment(row.sample.images[0], box), gold)


def first_box(row: EvaluationRow, prediction: Prediction) -> Box | None:
    """The first box of the first completion, in original pixels; None if there is none."""
    if prediction.status[0] != "ok":
        return None
    text = prediction.completions[0]
    answer = find_answer(text) or find_answer(text, "boxed") or ""
    boxes: list[Box] = load_task("grounding").read(answer, row.sample, prediction.views) or []
    return boxes[0] if boxes else None


def first_published_box(row: EvaluationRow, prediction: Prediction) -> Box | None:
    """The same as the published evaluation reads it."""
    return published_box(prediction.completions[0], prediction.views[0]) if prediction.views else None


BENCHMARK = Benchmark(
    name="lisa",
    task="grounding",
    splits={"val": 200, "test": 779},
    max_new_tokens=128,
    converter="lisa",
    figures=make_figures,
    add_options=add_options,
)

if __name__ == "__main__":
    sys.exit(run(BENCHMARK))
