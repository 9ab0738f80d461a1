"""Boxes, AP and masks against torchvision, the COCO library's definition and a tiny random SAM."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch
from torchvision.ops import box_iou

from builders import png
from eval.detection import average_precision
from eval.fine_grained import mean_of
from eval.masks import BoxSegmenter, count_overlap, draw_polygons
from gpg_vl.records import Box, Sample
from gpg_vl.scores import Estimate
from gpg_vl.verifiers.box_text import Detection
from gpg_vl.verifiers.boxes import Hits, count_hits, iou


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
        found.append([Detection(box, c) for box, c in zip(boxes, confidences, strict=True)])
        hits.append(count_hits(boxes, confidences, gold, 0.5))
    assert average_precision(samples, found, 100)["AP50"] == pytest.approx(interpolated_ap(hits), abs=1e-6)


def test_ap_of_gold_boxes_is_1_and_of_none_0() -> None:
    sample = Sample("1", "detection", ("1.png",), "?", "[[1, 2, 30, 40]]", {"category": "cat"})
    right = [[Detection((1.0, 2.0, 30.0, 40.0), 0.9)]]
    assert average_precision([sample], right, 100) == pytest.approx({"AP": 1, "AP50": 1, "AP75": 1})
    assert average_precision([sample], [[]], 100)["AP"] == 0


def test_mean_of_four_sets() -> None:
    found = mean_of([Estimate(0.5, 0, 1, 100), Estimate(0.9, 0, 1, 400)])
    half = 1.96 * (0.25 / 100 + 0.09 / 400) ** 0.5 / 2
    assert (found.value, found.low, found.high) == pytest.approx((0.7, 0.7 - half, 0.7 + half))


def test_masks_of_a_tiny_random_sam(tmp_path: Path) -> None:
    from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

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
        tmp_path
    )
    SamProcessor(SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})).save_pretrained(
        tmp_path
    )
    found = BoxSegmenter(str(tmp_path)).segment(png(50, 30), (5, 5, 20, 20))
    assert (found.shape, found.dtype) == ((30, 50), bool)
    with pytest.raises(ValueError, match="holds no SAM model"):
        BoxSegmenter(str(tmp_path / "none"))


def test_overlap_of_polygons() -> None:
    square = draw_polygons([[[0, 0], [9, 0], [9, 9], [0, 9]]], 20, 10)
    assert square.sum() == 100
    assert count_overlap(draw_polygons([[[5, 0], [14, 0], [14, 9], [5, 9]]], 20, 10), square) == (50, 150)
    assert count_overlap(None, square) == (0, 100)
