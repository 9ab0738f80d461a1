"""The FLOP model against what torch counts in a real forward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.flops import (
    Lengths,
    body_flops,
    decode_bytes,
    head_flops,
    ideal_update_ratio,
    repeated_flops,
    useful_update_flops,
    vision_flops,
)
from benchmarks.groups import build_adapter, draw_group
from benchmarks.models import ModelShape
from gpg_vl.update.packing import build_micro_batch, split_into_rows

FAMILIES = {
    "qwen2_vl": ModelShape("test", "qwen2_vl", 400, 128, 2, 4, 2, 256, 96, 2, 4, 384),
    "qwen2_5_vl": ModelShape("test", "qwen2_5_vl", 400, 128, 2, 4, 2, 256, 96, 8, 4, 256),
}
LENGTHS = Lengths(image_tokens=64, text_tokens=20, completion_tokens=16, group_size=4)
MULTIPLICATIONS = {"mm", "addmm", "bmm", "convolution"}


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_of_the_flop_model_are_those_that_torch_multiplies(family: str, tmp_path: Path) -> None:
    shape = FAMILIES[family]
    adapter = build_adapter(shape, tmp_path)
    group = draw_group(adapter, LENGTHS)
    batch = build_micro_batch(split_into_rows(group, 10**6), adapter)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        adapter.run_body(
            input_ids=batch.input_ids,
            token_types=batch.token_types,
            position_ids=batch.position_ids,
            segment_ids=batch.segment_ids,
            vision=batch.vision,
        )
    counted = sum(
        count
        for operation, count in counter.get_flop_counts()["Global"].items()
        if str(operation).split(".")[-1] in MULTIPLICATIONS
    )
    tokens = batch.input_ids.numel()
    patches = 4 * LENGTHS.image_tokens
    weights = 2 * shape.text_parameters * tokens + 2 * shape.vision_parameters * patches
    weights += 2 * shape.merger_parameters * LENGTHS.image_tokens
    embedding = 2 * patches * 1176 * shape.vision_width  # the patch embedding, which the model leaves out
    assert counted - embedding == pytest.approx(weights, rel=0.01)


def test_attention_is_added_on_top() -> None:
    shape = FAMILIES["qwen2_vl"]
    assert vision_flops(shape, 64) > 2 * 256 * shape.vision_parameters
    assert body_flops(shape, 10, 90) - body_flops(shape, 10, 0) == 4 * shape.layers * shape.hidden * 10 * 90
    assert head_flops(shape, 3) == 2 * shape.vocab * shape.hidden * 3


def test_ideal_ratio_grows_to_its_limits() -> None:
    shape = FAMILIES["qwen2_vl"]
    ratios = [ideal_update_ratio(shape, Lengths(64, 20, 16, g)) for g in (1, 2, 8, 64)]
    assert ratios[0] == pytest.approx(1.0)
    assert ratios == sorted(ratios)
    one_token = ideal_update_ratio(shape, Lengths(1024, 20, 1, 8))
    assert 7.5 < one_token < 8
    assert repeated_flops(shape, Lengths(64, 20, 16, 8)) == 2 * repeated_flops(shape, Lengths(64, 20, 16, 4))


def test_an_update_is_three_forwards_of_shared_rows() -> None:
    shape = FAMILIES["qwen2_5_vl"]
    repeated = ideal_update_ratio(shape, LENGTHS) * useful_update_flops(shape, LENGTHS) / 3
    assert repeated == pytest.approx(repeated_flops(shape, LENGTHS))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_decode_step_reads_the_text_weights_and_the_cache(family: str, tmp_path: Path) -> None:
    """Of the real model: its matrices and head, and the keys and values that its own cache holds."""
    shape = FAMILIES[family]
    model: Any = build_adapter(shape, tmp_path).model
    matrices = [p for p in model.model.language_model.layers.parameters() if p.dim() == 2]
    weights = sum(p.numel() for p in [*matrices, model.lm_head.weight])
    tokens = torch.randint(16, 300, (3, 10))
    with torch.no_grad():
        cache = model(input_ids=tokens, mm_token_type_ids=torch.zeros_like(tokens), use_cache=True).past_key_values
    cached = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    assert decode_bytes(shape, rows=3, context=10) == 2 * (weights + cached)
    assert decode_bytes(shape, 3, 10, bytes_per_value=4) == 4 * (weights + cached)
