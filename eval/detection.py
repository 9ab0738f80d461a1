"""Detection: average precision of COCO and LVIS, by the COCO library (faster-coco-eval).

    python -m eval.detection --model PATH --data data/detection --out runs/coco/eval --split coco_few_shot \\
        --coco instances_val2017.json

A row asks for one category in one picture. With the published annotations (``--coco``, ``--lvis``) the AP is the
published one: over all their pictures, crowds included, and the categories that the rows ask for. Without them, the AP
uses only the rows and their gold boxes, and its name says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy
from faster_coco_eval import COCO, COCOeval_faster

from eval.benchmark import Benchmark, Figure, Figures, RowCounts, count_rows, figure_of, in_split
from eval.command import run
from gpg_vl.evaluation.predictions import Prediction
from gpg_vl.evaluation.scores import Estimate
from gpg_vl.records import Box, Sample
from gpg_vl.tasks import load_task
from gpg_vl.tasks.legacy.detection import published_boxes
from gpg_vl.verifiers.answers import find_answer
from gpg_vl.verifiers.box_text import DetectedBox, parse_detections

if TYPE_CHECKING:
    from gpg_vl.evaluation.evaluate_model import Evaluation

MAX_DETECTIONS = {"coco": 100, "lvis": 300}  # per picture and category
_THRESHOLDS = {"AP50": 0, "AP75": 5}  # index among the IoU thresholds 0.5, 0.55 ... 0.95


class Gold(NamedTuple):
    """The objects to find, and which picture and category each row asks about."""

    truth: COCO
    keys: list[tuple[int, int]]  # image_id and category_id, by row
    is_lvis: bool = False  # absence is only known for some categories of a picture; the rest is ignored


def add_options(parser: ArgumentParser) -> None:
    for family, name in (("coco", "instances_val2017.json"), ("lvis", "lvis_v1_val.json")):
        help_text = f"{name}, for the published AP of {family.upper()}'s splits"
        parser.add_argument(f"--{family}", metavar="FILE", type=annotation_file, help=help_text)


def annotation_file(text: str) -> Path:
    """The ``type`` of an option: a mistake is found before the evaluation, not after it."""
    if not Path(text).is_file():
        raise ArgumentTypeError(f"no file {text}")
    return Path(text)


def make_figures(evaluation: Evaluation, options: Namespace) -> Figures:
    figures: Figures = {}
    for split in dict.fromkeys(row.split for row in evaluation.rows):
        pairs = [
            (row.sample, prediction)
            for row, prediction in zip(evaluation.rows, evaluation.predictions, strict=True)
            if row.split == split
        ]
        family = split.partition("_")[0]
        annotations = getattr(options, family)
        samples = [sample for sample, _ in pairs]
        gold = gold_of_rows(samples) if annotations is None else published_gold(annotations, samples)
        strict, legacy = (
            average_precision(gold, [read(*pair) for pair in pairs], MAX_DETECTIONS[family])
            for read in (read_boxes, read_published_boxes)
        )
        of = f"{split}, rows alone" if annotations is None else split
        rows = count_rows(in_split(evaluation, split), BENCHMARK.splits[split])
        figures |= {
            f"{name} {of}": Figure(_without_interval(strict[name], rows), _without_interval(legacy[name], rows), rows)
            for name in strict
        }
        overlap = figure_of(in_split(evaluation, split), "detection", BENCHMARK.splits[split])
        if overlap is not None:
            figures[f"mIoU {split}"] = overlap
    return figures


def _without_interval(value: float, rows: RowCounts) -> Estimate:
    """AP is not a mean over rows, so it has no such interval."""
    return Estimate(value, None, None, rows.num)


def read_boxes(sample: Sample, prediction: Prediction) -> list[DetectedBox]:
    """The first completion's boxes in original pixels; no boxes if it cannot be read."""
    if prediction.status[0] != "ok":
        return []
    text = prediction.completions[0]
    answer = find_answer(text) or find_answer(text, "boxed") or ""
    read = load_task("detection").read(answer, sample, prediction.views)
    return list(read or [])


def read_published_boxes(sample: Sample, prediction: Prediction) -> list[DetectedBox]:
    """The same as the published code reads it."""
    return published_boxes(prediction.completions[0], prediction.views[0]) if prediction.views else []


def gold_of_rows(samples: Sequence[Sample]) -> Gold:
    """The gold boxes of the rows; a picture is identified by its path or its bytes, a category by its name."""
    categories = {name: n for n, name in enumerate(sorted({_category(each) for each in samples}), start=1)}
    images = {key: n for n, key in enumerate(dict.fromkeys(map(_image_key, samples)), start=1)}
    keys = [(images[_image_key(each)], categories[_category(each)]) for each in samples]
    annotations: list[dict[str, Any]] = []
    for sample, (image, category) in zip(samples, keys, strict=True):
        for each in parse_detections(sample.answer) or []:
            box = _xywh(each.box)
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image, "category_id": category, "bbox": box}
                | {"area": box[2] * box[3], "iscrowd": 0}
            )
    truth = {
        "images": [{"id": number, "width": 0, "height": 0} for number in images.values()],
        "categories": [{"id": number, "name": name} for name, number in categories.items()],
        "annotations": annotations,
    }
    return Gold(_silently(lambda: COCO(truth)), keys)


def published_gold(file: Path, samples: Sequence[Sample]) -> Gold:
    """The published annotations.

    Raises:
        ValueError: they cannot be read, or lack pictures or categories of the rows
    """
    try:
        truth = _silently(lambda: COCO(str(file)))
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise ValueError(f"{file} has no annotations of COCO or LVIS ({type(error).__name__})") from error
    if not truth.imgs or not truth.cats or not truth.anns:
        raise ValueError(f"{file} has no annotations of COCO or LVIS: images, categories and annotations")
    keys = []
    for sample in samples:
        key: tuple[Any, Any] = (sample.meta.get("image_id"), sample.meta.get("category_id"))
        if key[0] not in truth.imgs or key[1] not in truth.cats:
            raise ValueError(f"{file} does not know picture and category {key} of row {sample.id}; the rows of "
                             "data_tools.coco carry them as meta.image_id and meta.category_id")  # fmt: skip
        keys.append((int(key[0]), int(key[1])))
    return Gold(truth, keys, any("neg_category_ids" in image for image in truth.imgs.values()))


def average_precision(gold: Gold, found: Sequence[Sequence[DetectedBox]], max_detections: int) -> dict[str, float]:
    """AP, AP50 and AP75 in [0, 1], as defined by COCO, over all pictures and the requested categories."""
    answered = [
        {"image_id": image, "category_id": category, "bbox": _xywh(each.box), "score": each.confidence}
        for (image, category), detections in zip(gold.keys, found, strict=True)
        for each in detections
    ]
    categories = sorted({category for _, category in gold.keys})
    if not answered or not gold.truth.getAnnIds(catIds=categories):
        return {"AP": 0.0, **dict.fromkeys(_THRESHOLDS, 0.0)}

    def evaluate() -> numpy.ndarray:
        evaluator = COCOeval_faster(gold.truth, gold.truth.loadRes(answered), "bbox", lvis_style=gold.is_lvis)
        evaluator.params.catIds = categories
        evaluator.params.maxDets = [1, 10, max_detections]
        evaluator.evaluate()
        evaluator.accumulate()
        precision: numpy.ndarray = evaluator.eval["precision"]
        return precision[
            ..., 0, -1
        ]  # for all sizes and the maximum number of detections; [threshold, recall, category]

    precision = _silently(evaluate)
    means = {name: precision[place] for name, place in _THRESHOLDS.items()}
    return {name: float(values[values > -1].mean()) for name, values in {"AP": precision, **means}.items()}


def _silently(work: Any) -> Any:
    """The result of work by the COCO library, without the progress that it prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        return work()


def _category(sample: Sample) -> str:
    return str(sample.meta.get("category") or "object")


def _image_key(sample: Sample) -> str:
    """A key for the picture: its path, or a digest of its bytes."""
    image = sample.images[0]
    return image if isinstance(image, str) else hashlib.sha256(image).hexdigest()


def _xywh(box: Box) -> list[float]:
    x1, y1, x2, y2 = box
    return [x1, y1, x2 - x1, y2 - y1]


BENCHMARK = Benchmark(
    name="detection",
    task="detection",
    # pairs of picture and category that the published lists of the 2B model ask for
    splits={
        "coco": 25067, "coco_few_shot": 1608, "coco_novel": 2224, "lvis": 15226, "lvis_few_shot": 6926,
        "lvis_novel": 14506,
    },
    max_new_tokens=1024,
    converter="coco",
    figures=make_figures,
    add_options=add_options,
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(run(BENCHMARK))
