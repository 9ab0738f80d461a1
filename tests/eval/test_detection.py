"""AP against the COCO library's own code (pycocotools), on random boxes of several categories with crowds."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from eval.command import run
from eval.detection import BENCHMARK, average_precision, gold_of_rows, published_gold
from gpg_vl.records import Box, Sample
from gpg_vl.verifiers.box_text import DetectedBox
from tests.support.messages import lines_naming, naming

CATEGORIES = (3, 7, 20)
NUM_IMAGES = 12


def random_boxes(rng: numpy.random.Generator, num: int) -> list[Box]:
    corners, sides = rng.integers(0, 60, (num, 2)), rng.integers(5, 40, (num, 2))
    return [(float(x), float(y), float(x + w), float(y + h)) for (x, y), (w, h) in zip(corners, sides, strict=True)]


def as_xywh(box: Box) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def make_case(
    seed: int, crowds: bool
) -> tuple[dict[str, Any], list[Sample], list[list[DetectedBox]], list[dict[str, Any]]]:
    """Annotations, rows that ask for most pairs of picture and category, answers, and these as COCO has them."""
    rng = numpy.random.default_rng(seed)
    images = [{"id": 100 + n, "file_name": f"{n}.jpg", "width": 100, "height": 100} for n in range(NUM_IMAGES)]
    names = [{"id": n, "name": f"kind {n}", "frequency": "c"} for n in CATEGORIES]
    annotations: list[dict[str, Any]] = []
    samples, found, plain = [], [], []
    for image in images:
        for category in CATEGORIES:
            gold = random_boxes(rng, int(rng.integers(0, 5)))
            for number, box in enumerate(gold):
                bbox = as_xywh(box)
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": image["id"], "category_id": category, "bbox": bbox}
                    | {"area": bbox[2] * bbox[3], "iscrowd": int(crowds and number == 3)}
                )
            if category == 20 and image["id"] < 106:
                continue  # not asked: what is there is missed
            moved = [tuple(v + float(rng.normal(0, 2)) for v in box) for box in gold[:3]] + random_boxes(rng, 1)
            boxes = [(x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)) for x1, y1, x2, y2 in moved]
            detections = [DetectedBox(box, float(rng.integers(1, 100)) / 100 + len(plain) / 1e5) for box in boxes]
            meta = {"category": f"kind {category}", "category_id": category, "image_id": image["id"]}
            answer = str([list(box) for box in gold]) if gold else "No Objects"
            samples.append(Sample(str(len(samples)), "detection", (str(image["id"]),), "?", answer, meta))
            found.append(detections)
            plain += [
                {"image_id": image["id"], "category_id": category, "bbox": as_xywh(each.box), "score": each.confidence}
                for each in detections
            ]
    truth = {"info": {}, "licenses": [], "images": images, "categories": names, "annotations": annotations}
    return truth, samples, found, plain


def by_pycocotools(file: Path, plain: Sequence[dict[str, Any]], categories: Sequence[int]) -> dict[str, float]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
        evaluator = COCOeval(truth, truth.loadRes(list(plain)), "bbox")
        evaluator.params.catIds = list(categories)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return dict(zip(("AP", "AP50", "AP75"), map(float, evaluator.stats), strict=False))


def write(folder: Path, truth: dict[str, Any]) -> Path:
    file = folder / "instances.json"
    file.write_text(json.dumps(truth))
    return file


@pytest.mark.parametrize("crowds", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_ap_of_the_published_annotations_is_pycocotools(seed: int, crowds: bool, tmp_path: Path) -> None:
    truth, samples, found, plain = make_case(seed, crowds)
    file = write(tmp_path, truth)
    expected = by_pycocotools(file, plain, CATEGORIES)
    values = average_precision(published_gold(file, samples), found, 100)
    assert values == pytest.approx(expected, abs=1e-9)
    assert 0.05 < expected["AP"] < expected["AP50"] < 1
    few = [n for n, sample in enumerate(samples) if sample.meta["category_id"] != 7]
    of_few = average_precision(published_gold(file, [samples[n] for n in few]), [found[n] for n in few], 100)
    assert of_few == pytest.approx(by_pycocotools(file, plain, (3, 20)), abs=1e-9), "categories not asked for"


@pytest.mark.parametrize("seed", range(4))
def test_ap_of_rows_alone_is_pycocotools_without_what_was_not_asked(seed: int, tmp_path: Path) -> None:
    truth, samples, found, plain = make_case(seed, crowds=False)
    asked = {(sample.meta["image_id"], sample.meta["category_id"]) for sample in samples}
    whole = average_precision(published_gold(write(tmp_path, truth), samples), found, 100)
    truth["annotations"] = [a for a in truth["annotations"] if (a["image_id"], a["category_id"]) in asked]
    expected = by_pycocotools(write(tmp_path, truth), plain, CATEGORIES)
    values = average_precision(gold_of_rows(samples), found, 100)
    assert values == pytest.approx(expected, abs=1e-9)
    assert values["AP"] > whole["AP"], "objects that nobody asked for count in the published figure"


def test_lvis_leaves_out_what_is_not_known(tmp_path: Path) -> None:
    """An answer counts where its category is annotated or known to be absent, as LVIS has it."""
    truth, samples, found, plain = make_case(3, crowds=False)
    present = {(a["image_id"], a["category_id"]) for a in truth["annotations"]}
    for image in truth["images"]:
        image |= {"neg_category_ids": [3] if image["id"] % 2 else [], "not_exhaustive_category_ids": []}
    known = present | {(image["id"], 3) for image in truth["images"] if image["id"] % 2}
    file = write(tmp_path, truth)
    kept = [each for each in plain if (each["image_id"], each["category_id"]) in known]
    assert len(kept) < len(plain)
    values = average_precision(published_gold(file, samples), found, 300)
    assert values == pytest.approx(by_pycocotools(file, kept, CATEGORIES), abs=1e-9)
    assert values["AP"] > by_pycocotools(file, plain, CATEGORIES)["AP"]


def test_rows_of_other_annotations_are_refused(tmp_path: Path) -> None:
    truth, samples, _, _ = make_case(0, crowds=False)
    file = write(tmp_path, truth | {"images": truth["images"][1:]})
    with pytest.raises(ValueError, match=naming(file, "(100, 3)", "row 0")):
        published_gold(file, samples)
    for content in ("[]", "{", '{"images": []}'):
        file.write_text(content)
        with pytest.raises(ValueError, match=naming(file, "COCO", "LVIS")):
            published_gold(file, samples)
    with pytest.raises(ValueError, match=naming(tmp_path / "none.json")):
        published_gold(tmp_path / "none.json", samples)


def test_published_ap_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth, samples, found, plain = make_case(5, crowds=True)
    file = write(tmp_path, truth)
    rows = []
    for sample, detections in zip(samples, found, strict=True):
        boxes = [{"Position": list(each.box), "Confidence": each.confidence} for each in detections]
        rows.append({"completion": f"<answer>{boxes}</answer>", "answer": sample.answer, "meta": sample.meta})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--completions", str(tmp_path / "rows.jsonl"), "--split", "coco_few_shot", "--out", str(tmp_path / "out")]
    assert run(BENCHMARK, [*words, "--coco", str(file)]) == 0, capsys.readouterr().err
    assert lines_naming(capsys.readouterr().err, "note", "coco_few_shot", len(rows), 1608)
    figures = json.loads((tmp_path / "out/results.json").read_text())["figures"]
    values = {name: figures[f"{name} coco_few_shot"]["strict"]["value"] for name in ("AP", "AP50", "AP75")}
    assert values == pytest.approx(by_pycocotools(file, plain, CATEGORIES), abs=1e-9)
    assert run(BENCHMARK, [*words, "--coco", str(tmp_path / "none.json")]) == 2
    assert lines_naming(capsys.readouterr().err, "--coco", tmp_path / "none.json")


def test_legacy_ap_is_that_of_the_boxes_that_the_published_code_reads(tmp_path: Path) -> None:
    """The first tag, lists cut short, boxes with corners in any order; strict is the last tag and well-formed boxes."""
    truth, samples, found, _ = make_case(6, crowds=False)
    rows, read = [], []
    for n, (sample, detections) in enumerate(zip(samples, found, strict=True)):
        boxes = [{"Position": list(each.box), "Confidence": each.confidence} for each in detections]
        if n % 2:
            x1, y1, x2, y2 = detections[0].box
            boxes[0]["Position"] = [x2, y2, x1, y1]
        cut = f"{boxes[:2]}"[:-1] + ", {'Position': [1, 2" if len(boxes) > 1 else str(boxes)
        rows.append({"completion": f"<think><answer>{cut}</answer></think><answer>No Objects</answer>",
                     "answer": sample.answer, "meta": sample.meta})  # fmt: skip
        read += [
            {"image_id": sample.meta["image_id"], "category_id": sample.meta["category_id"], "score": box["Confidence"],
             "bbox": as_xywh(box["Position"])}  # type: ignore[arg-type]
            for box in boxes[:2]
        ]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--completions", str(tmp_path / "rows.jsonl"), "--split", "coco_novel", "--out", str(tmp_path / "out")]
    assert run(BENCHMARK, [*words, "--coco", str(write(tmp_path, truth))]) == 0
    figures = json.loads((tmp_path / "out/results.json").read_text())["figures"]
    values = {name: figures[f"{name} coco_novel"]["legacy"]["value"] for name in ("AP", "AP50", "AP75")}
    expected = by_pycocotools(tmp_path / "instances.json", read, CATEGORIES)
    assert values == pytest.approx(expected, abs=1e-9)
    assert expected["AP50"] > 0.05
    assert figures["AP coco_novel"]["strict"] == {"value": 0.0, "low": None, "high": None, "n": len(rows)}
