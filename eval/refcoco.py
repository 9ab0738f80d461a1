"""RefCOCO: one box for an expression; the share of boxes with an IoU above 0.5.

python -m eval.refcoco --model PATH --data data/refcoco --out runs/refcoco/eval [--split val]
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from eval.benchmark import Benchmark, Figure, Figures, count_rows, in_split
from eval.command import run
from gpg_vl.evaluation.predictions import Prediction
from gpg_vl.evaluation.scores import Estimate, estimate

if TYPE_CHECKING:
    from gpg_vl.evaluation.evaluate_model import Evaluation

HIT_IOU = 0.5


def make_figures(evaluation: Evaluation, options: Namespace) -> Figures:
    splits = {split: in_split(evaluation, split) for split in BENCHMARK.splits}
    return {
        f"acc@0.5 {split}": share_of_hits(members, BENCHMARK.splits[split])
        for split, members in splits.items()
        if members
    }


def share_of_hits(predictions: Sequence[Prediction], published: int) -> Figure:
    """Strict: the kit's IoU; legacy: the IoU of the first box anywhere in the output. A hit is above 0.5."""
    strict = estimate([_share([parts.get("iou", 0.0) for parts in each.parts]) for each in predictions])
    values = [_share([value or 0.0 for value in each.legacy]) for each in predictions if each.legacy is not None]
    legacy: Estimate | None = estimate(values) if values else None
    return Figure(strict, legacy, count_rows(predictions, published))


def _share(overlaps: Sequence[float]) -> float:
    return sum(overlap > HIT_IOU for overlap in overlaps) / len(overlaps)


BENCHMARK = Benchmark(
    name="refcoco",
    task="grounding",
    splits={"val": 10834, "testA": 5657, "testB": 5095},
    max_new_tokens=256,
    converter="refcoco",
    figures=make_figures,
)

if __name__ == "__main__":
    sys.exit(run(BENCHMARK))
