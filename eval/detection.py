"""Detection: average precision of COCO, by the COCO library (faster-coco-eval), over the rows' pictures and categories.

python -m eval.detection --model PATH --data data/coco --out runs/coco/eval [--split coco]

A row asks for one category in one picture; ``meta`` holds the category. Gold boxes are the rows': there are no crowds.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from faster_coco_eval import COCO, COCOeval_faster

from eval.benchmark import Benchmark, Figure, Figures, figure_of, run
from gpg_vl.evaluate_model import Evaluation
from gpg_vl.predictions import Prediction
from gpg_vl.records import Box, Sample
from gpg_vl.scores import Estimate
from gpg_vl.tasks import load_task
from gpg_vl.verifiers.answers import find_answer
from gpg_vl.verifiers.box_text import Detection, parse_detections

MAX_DETECTIONS = {"coco": 100, "lvis": 300}  # of a picture and category
STATS = ("AP", "AP50", "AP75")


def make_figures(evaluation: Evaluation, options: Namespace) -> Figures:
    figures: Figures = {}
    for split in dict.fromkeys(row.split for row in evaluation.rows):
        pairs = [
            (row.sample, prediction)
            for row, prediction in zip(evaluation.rows, evaluation.predictions, strict=True)
            if row.split == split
        ]
        values = average_precision(
            [sample for sample, _ in pairs], [read_boxes(*pair) for pair in pairs], MAX_DETECTIONS[split]
        )
        # AP is no mean over rows: it has no interval of this kind, and the published AP is strict's reading
        figures |= {f"{name} {split}": Figure(Estimate(v, v, v, len(pairs)), None) for name, v in values.items()}
        overlap = figure_of([prediction for _, prediction in pairs], "detection")
        if overlap is not None:
            figures[f"mIoU {split}"] = overlap
    return figures


def read_boxes(sample: Sample, prediction: Prediction) -> list[Detection]:
    """The first completion's boxes in original pixels; none where it cannot be read."""
    if prediction.status[0] != "ok":
        return []
    read = load_task("detection").read(find_answer(prediction.completions[0]) or "", sample, prediction.views)
    return list(read or [])


def average_precision(
    samples: Sequence[Sample], found: Sequence[Sequence[Detection]], max_detections: int
) -> dict[str, float]:
    """AP, AP50 and AP75 in [0, 1], as COCO defines them, over all categories among the samples."""
    categories = {name: n for n, name in enumerate(sorted({_category(each) for each in samples}), start=1)}
    images = {key: n for n, key in enumerate(dict.fromkeys(map(_image_key, samples)), start=1)}
    gold: list[dict[str, Any]] = []
    answered: list[dict[str, Any]] = []
    for sample, detections in zip(samples, found, strict=True):
        of_row = {"image_id": images[_image_key(sample)], "category_id": categories[_category(sample)]}
        for each in parse_detections(sample.answer) or []:
            box = _xywh(each.box)
            gold.append({**of_row, "id": len(gold) + 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0})
        answered += [{**of_row, "bbox": _xywh(each.box), "score": each.confidence} for each in detections]
    if not gold or not answered:
        return dict.fromkeys(STATS, 0.0)
    truth = {
        "images": [{"id": number, "width": 0, "height": 0} for number in images.values()],
        "categories": [{"id": number, "name": name} for name, number in categories.items()],
        "annotations": gold,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(truth)
        evaluator = COCOeval_faster(coco, coco.loadRes(answered), "bbox")
        evaluator.params.maxDets = [1, 10, max_detections]
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return {name: max(0.0, float(value)) for name, value in zip(STATS, evaluator.stats, strict=False)}


def _category(sample: Sample) -> str:
    return str(sample.meta.get("category") or "object")


def _image_key(sample: Sample) -> str:
    """Of the picture: its path, or a digest of its bytes."""
    image = sample.images[0]
    return image if isinstance(image, str) else hashlib.sha256(image).hexdigest()


def _xywh(box: Box) -> list[float]:
    x1, y1, x2, y2 = box
    return [x1, y1, x2 - x1, y2 - y1]


BENCHMARK = Benchmark(
    name="detection",
    task="detection",
    splits={"coco": 25067, "lvis": 15226},
    max_new_tokens=1024,
    converter="virft_det",
    figures=make_figures,
)

if __name__ == "__main__":
    sys.exit(run(BENCHMARK))
