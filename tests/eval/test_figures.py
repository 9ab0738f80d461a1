"""Boxes, AP and masks against torchvision, the COCO library's definition and a tiny random SAM."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from operator import truediv
from pathlib import Path

import numpy
import pytest
import torch
from torchvision.ops import box_iou

from eval import lisa
from eval.command import run
from eval.detection import average_precision, gold_of_rows
from eval.masks import BoxSegmenter, count_overlap, draw_polygons
from gpg_vl.evaluation.scores import estimate, mean_of
from gpg_vl.records import Box, Sample
from gpg_vl.verifiers.box_text import DetectedBox
from gpg_vl.verifiers.boxes import iou, iou_matrix
from tests.support.builders import png
from tests.support.messages import lines_naming, naming


def random_boxes(rng: numpy.random.Generator, num: int) -> list[Box]:
    corners = rng.integers(0, 60, (num, 2))
    sides = rng.integers(5, 40, (num, 2))
    return [(float(x), float(y), float(x + w), float(y + h)) for (x, y), (w, h) in zip(corners, sides, strict=True)]


@pytest.mark.parametrize("seed", range(10))
def test_iou_is_torchvisions(seed: int) -> None:
    rng = numpy.random.default_rng(seed)
    left, right = random_boxes(rng, 12), random_boxes(rng, 9)
    expected = box_iou(torch.tensor(left), torch.tensor(right))
    found = torch.tensor([[iou(a, b) for b in right] for a in left])
    torch.testing.assert_close(found, expected)


@dataclass(frozen=True, slots=True)
class Hits:
    """One image's share of average precision at one IoU threshold."""

    confidences: tuple[float, ...]  # descending
    true_positive: tuple[bool, ...]  # of the box with that confidence
    num_gold: int


def count_hits(boxes: Sequence[Box], confidences: Sequence[float], gold: Sequence[Box], threshold: float) -> Hits:
    """Which boxes are true positives, as COCO counts: in descending confidence, each takes the free gold box that it
    overlaps most, if by at least ``threshold``."""
    order = sorted(range(len(boxes)), key=lambda index: -confidences[index])
    overlaps = iou_matrix(boxes, gold)
    free = set(range(len(gold)))
    hits = []
    for index in order:
        best = max(free, key=lambda column: (overlaps[index, column], -column), default=None)
        is_hit = best is not None and bool(overlaps[index, best] >= threshold)
        if best is not None and is_hit:
            free.discard(best)
        hits.append(is_hit)
    return Hits(tuple(confidences[index] for index in order), tuple(hits), len(gold))


def test_hits_of_average_precision() -> None:
    gold = [(0.0, 0.0, 10.0, 10.0), (20.0, 20.0, 30.0, 30.0)]
    answered = [(0.0, 0.0, 10.0, 8.0), gold[0], (50.0, 50.0, 60.0, 60.0), gold[1]]
    confidences = [0.3, 0.9, 0.5, 0.8]
    assert count_hits(answered, confidences, gold, 0.5) == Hits((0.9, 0.8, 0.5, 0.3), (True, True, False, False), 2)
    assert count_hits(answered[:1], [1.0], gold, 0.75) == Hits((1.0,), (True,), 2)
    assert count_hits(answered[:1], [1.0], gold, 0.85) == Hits((1.0,), (False,), 2)
    assert count_hits([], [], gold, 0.5) == Hits((), (), 2)
    assert count_hits(answered[:1], [1.0], [], 0.5) == Hits((1.0,), (False,), 0)


def interpolated_ap(images: list[Hits]) -> float:
    """COCO's AP at one threshold: precision interpolated at 101 recalls."""
    marks = sorted(
        ((c, hit) for image in images for c, hit in zip(image.confidences, image.true_positive, strict=True)),
        key=lambda mark: -mark[0],
    )
    num_gold = sum(image.num_gold for image in images)
    hits = numpy.cumsum([hit for _, hit in marks])
    recall, precision = hits / num_gold, hits / numpy.arange(1, len(marks) + 1)
    envelope = numpy.maximum.accumulate(precision[::-1])[::-1]
    return float(numpy.mean([envelope[recall >= r - 1e-12].max(initial=0.0) for r in numpy.linspace(0, 1, 101)]))


@pytest.mark.parametrize("seed", range(10))
def test_ap_of_random_boxes_is_the_definitions(seed: int) -> None:
    rng = numpy.random.default_rng(seed)
    samples, found, hits = [], [], []
    for n in range(8):
        gold = random_boxes(rng, 4)
        moved = [tuple(v + float(rng.normal(0, 2)) for v in box) for box in gold[:3]] + random_boxes(rng, 2)
        boxes: list[Box] = [(x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)) for x1, y1, x2, y2 in moved]
        confidences = rng.permutation(numpy.arange(8, 8 + len(boxes)) / 20 + n / 1000).tolist()
        answer = str([list(box) for box in gold])
        samples.append(Sample(str(n), "detection", (f"{n}.png",), "?", answer, {"category": "cat"}))
        found.append([DetectedBox(box, c) for box, c in zip(boxes, confidences, strict=True)])
        hits.append(count_hits(boxes, confidences, gold, 0.5))
    assert average_precision(gold_of_rows(samples), found, 100)["AP50"] == pytest.approx(
        interpolated_ap(hits), abs=1e-6
    )


def test_ap_of_gold_boxes_is_1_and_of_none_0() -> None:
    sample = Sample("1", "detection", ("1.png",), "?", "[[1, 2, 30, 40]]", {"category": "cat"})
    right = [[DetectedBox((1.0, 2.0, 30.0, 40.0), 0.9)]]
    assert average_precision(gold_of_rows([sample]), right, 100) == pytest.approx({"AP": 1, "AP50": 1, "AP75": 1})
    assert average_precision(gold_of_rows([sample]), [[]], 100)["AP"] == 0


def test_mean_of_sets_has_the_interval_of_both() -> None:
    """For many rows that of the normal approximation; where nothing is right, not a point."""
    found = mean_of([estimate([1.0] * 5000 + [0.0] * 5000), estimate([1.0] * 36000 + [0.0] * 4000)])
    half = 1.96 * (0.25 / 10000 + 0.09 / 40000) ** 0.5 / 2
    assert (found.value, found.low, found.high) == pytest.approx((0.7, 0.7 - half, 0.7 + half), abs=1e-5)
    none = mean_of([estimate([0.0] * 4)] * 4)
    assert (none.value, none.low, none.n) == (0.0, 0.0, 16)
    one = estimate([0.0] * 4).high
    assert one is not None and none.high == pytest.approx(one / 2)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_interval_of_the_mean_of_sets_holds_the_truth_as_often_as_it_says(share: float) -> None:
    rng = numpy.random.default_rng(0)
    shares, sizes = (share, min(1.0, share + 0.05)), (40, 90)
    held = 0
    for _ in range(1000):
        found = mean_of(
            [estimate((rng.random(n) < p).astype(float).tolist()) for p, n in zip(shares, sizes, strict=True)]
        )
        assert found.low is not None and found.high is not None
        held += found.low <= sum(shares) / 2 <= found.high
    assert 0.925 < held / 1000 < 0.985


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model of the real class with its processor, as a folder."""
    from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

    folder = tmp_path_factory.mktemp("sam")
    vision = {"hidden_size": 16, "output_channels": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_dim": 16}
    vision |= {"image_size": 64, "patch_size": 16, "window_size": 2, "num_pos_feats": 8, "global_attn_indexes": [0]}
    prompt = {"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 4}
    mask = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "mlp_dim": 16,
        "iou_head_hidden_dim": 16,
    }
    torch.manual_seed(0)
    SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=mask)).save_pretrained(
        folder
    )
    SamProcessor(SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})).save_pretrained(
        folder
    )
    return folder


def test_masks_of_a_tiny_random_sam(sam: Path, tmp_path: Path) -> None:
    found = BoxSegmenter(str(sam)).segment(png(50, 30), (5, 5, 20, 20))
    assert (found.shape, found.dtype) == ((30, 50), bool)
    with pytest.raises(ValueError, match=naming(tmp_path / "none", "SAM")):
        BoxSegmenter(str(tmp_path / "none"))


def test_overlap_of_polygons() -> None:
    square = draw_polygons([[[0, 0], [9, 0], [9, 9], [0, 9]]], 20, 10)
    assert square.sum() == 100
    assert count_overlap(draw_polygons([[[5, 0], [14, 0], [14, 9], [5, 9]]], 20, 10), square) == (50, 150)
    assert count_overlap(None, square) == (0, 100)


BOXES = ((4.0, 4.0, 30.0, 20.0), (20.0, 2.0, 45.0, 28.0))
PUBLISHED_BOX = (7.0, 5.0, 25.0, 29.0)  # all that the published evaluation reads: the second picture's reasoning
SHAPE = [[[5, 5], [40, 8], [35, 25]]]


def write_answers(folder: Path) -> Path:
    """Stored completions of three pictures: a box, another one, and none."""
    rows = []
    for n, (reasoning, completion) in enumerate(
        (("", "[4, 4, 30, 20]"), ("(7, 5), (25, 29)", "[20, 2, 45, 28]"), ("", "nowhere"))
    ):
        (folder / f"{n}.png").write_bytes(png(50, 30, n))
        rows.append(
            {"completion": f"<think>{reasoning}</think><answer>{completion}</answer>", "answer": "[5, 5, 40, 25]"}
            | {"image": str(folder / f"{n}.png"), "meta": {"polygons": SHAPE}}
        )
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "rows.jsonl"


def test_giou_and_ciou_by_the_command(sam: Path, tmp_path: Path) -> None:
    words = ["--completions", str(write_answers(tmp_path)), "--split", "val", "--out", str(tmp_path / "out")]
    command = [sys.executable, "-m", "eval.lisa", *words, "--sam", str(sam)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode == 0, ended.stderr
    figures = json.loads((tmp_path / "out/results.json").read_text())["figures"]
    gold, segmenter = draw_polygons(SHAPE, 50, 30), BoxSegmenter(str(sam))
    masks = [segmenter.segment(str(tmp_path / f"{n}.png"), box) for n, box in enumerate(BOXES)]
    shared = [int((mask & gold).sum()) for mask in masks] + [0]
    unions = [int((mask | gold).sum()) for mask in masks] + [int(gold.sum())]
    assert figures["gIoU val"]["strict"]["value"] == pytest.approx(sum(map(truediv, shared, unions)) / 3)
    assert figures["cIoU val"]["strict"]["value"] == pytest.approx(sum(shared) / sum(unions))
    assert sum(shared) > 0, "a mask that is empty would show nothing"
    mask = segmenter.segment(str(tmp_path / "1.png"), PUBLISHED_BOX)
    shared, unions = [int((mask & gold).sum())], [int((mask | gold).sum()), *[int(gold.sum())] * 2]
    assert figures["gIoU val"]["legacy"]["value"] == pytest.approx(shared[0] / unions[0] / 3)
    assert figures["cIoU val"]["legacy"]["value"] == pytest.approx(shared[0] / sum(unions))
    assert figures["cIoU val"]["strict"]["low"] is None
    assert figures["gIoU val"]["strict"]["n"] == 3


def test_masks_are_skipped_with_a_reason(sam: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write_answers(tmp_path)
    plain = tmp_path / "plain.jsonl"
    plain.write_text(json.dumps({"completion": "x", "answer": "[5, 5, 40, 25]"}))
    for file, words, named in (
        (rows, [], ["--sam"]),
        (rows, ["--sam", str(tmp_path / "none")], ["--sam", tmp_path / "none"]),
        (rows, ["--sam", "facebook/sam-vit-huge"], ["--sam", "facebook/sam-vit-huge"]),
        (plain, ["--sam", str(sam)], ["meta.polygons"]),
    ):
        out = tmp_path / f"out-{file.stem}"
        stored = ["--completions", str(file), "--split", "test", "--out", str(out)]
        assert run(lisa.BENCHMARK, [*stored, *words]) == 0
        assert lines_naming(capsys.readouterr().err, "gIoU", "cIoU", *named)
        assert set(json.loads((out / "results.json").read_text())["figures"]) == {"mIoU test"}
