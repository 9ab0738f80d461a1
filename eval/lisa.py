"""LISA's reasoning grounding: mean box IoU on val and test; with a SAM model, gIoU and cIoU of masks too.

python -m eval.lisa --model PATH --data data/lisa --out runs/lisa/eval [--sam facebook/sam-vit-huge]
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from eval.benchmark import Benchmark, Figure, Figures, figure_of, in_split, present, run
from eval.masks import BoxSegmenter, count_overlap, draw_polygons
from gpg_vl.evaluate import Row
from gpg_vl.evaluate_model import Evaluation
from gpg_vl.predictions import Prediction
from gpg_vl.records import Box
from gpg_vl.scores import Estimate, estimate
from gpg_vl.tasks import load_task
from gpg_vl.verifiers.answers import find_answer

POLYGONS = "polygons"  # key of meta: the gold polygons, each a list of [x, y] in original pixels


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--sam", help="SAM model of transformers for gIoU and cIoU; default: they are not measured")


def make_figures(evaluation: Evaluation, options: Namespace) -> Figures:
    boxes = {split: figure_of(in_split(evaluation, split), "grounding") for split in BENCHMARK.splits}
    figures = present({f"mIoU {split}": figure for split, figure in boxes.items()})
    reason = _why_no_masks(evaluation, options)
    if reason is not None:
        print(f"gIoU and cIoU are not measured: {reason}", file=sys.stderr)
        return figures
    segmenter = BoxSegmenter(options.sam)
    for split in dict.fromkeys(row.split for row in evaluation.rows):
        figures |= _mask_figures(evaluation, split, segmenter)
    return figures


def _why_no_masks(evaluation: Evaluation, options: Namespace) -> str | None:
    if options.sam is None:
        return "no SAM model is named by --sam"
    if Path(options.sam).is_absolute() and not Path(options.sam).is_dir():
        return f"there are no weights in {options.sam}"
    if not all(row.sample.meta.get(POLYGONS) for row in evaluation.rows):
        return f"the rows have no meta.{POLYGONS}"
    return None


def _mask_figures(evaluation: Evaluation, split: str, segmenter: BoxSegmenter) -> Figures:
    """gIoU, the mean IoU of masks, and cIoU, all intersections by all unions; of strict boxes."""
    overlaps = [
        _overlap(row, prediction, segmenter)
        for row, prediction in zip(evaluation.rows, evaluation.predictions, strict=True)
        if row.split == split and prediction.views
    ]
    num_missing = len(in_split(evaluation, split)) - len(overlaps)
    per_image = estimate([shared / union if union else 0.0 for shared, union in overlaps] + [0.0] * num_missing)
    cumulated = sum(shared for shared, _ in overlaps) / max(1, sum(union for _, union in overlaps))
    of_all = Estimate(cumulated, cumulated, cumulated, per_image.n)  # no mean over rows: no interval of this kind
    return {f"gIoU {split}": Figure(per_image, None), f"cIoU {split}": Figure(of_all, None)}


def _overlap(row: Row, prediction: Prediction, segmenter: BoxSegmenter) -> tuple[int, int]:
    view, sample = prediction.views[0], row.sample
    gold = draw_polygons(sample.meta[POLYGONS], view.width, view.height)
    box = first_box(row, prediction)
    return count_overlap(None if box is None else segmenter.segment(sample.images[0], box), gold)


def first_box(row: Row, prediction: Prediction) -> Box | None:
    """The first box of the first completion, in original pixels; None where there is none."""
    if prediction.status[0] != "ok":
        return None
    answer = find_answer(prediction.completions[0]) or ""
    boxes: list[Box] = load_task("grounding").read(answer, row.sample, prediction.views) or []
    return boxes[0] if boxes else None


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
