"""The first batch of every run: are the packed log-probs those of plain rows?

A wrong mask or wrong positions train silently on the wrong thing. So a micro-batch is run both ways, packed and as
separate rows through the model's own masks and positions, in the precision of the weights, before the first step. In
float32 the largest difference counts; in bfloat16, where single tokens are far apart by rounding alone, a row's mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gpg_vl.models.log_probs import token_log_probs
from gpg_vl.models.qwen_vl import QwenVLAdapter
from gpg_vl.records import Completion, Prompt
from gpg_vl.update.packing import Row, build_micro_batch
from gpg_vl.update.policy import move_to, packed_log_probs

TOLERANCE = 1e-4
"""Largest difference of a token's log-probs with float32 weights, in nats."""
BFLOAT16_TOLERANCE = 0.02
"""Mean difference over the tokens of a row with bfloat16 weights, in nats."""
FEATURE_TOLERANCE = 0.25
"""Difference of image features that bfloat16 autocast has rounded, as a share of their norm."""


def plain_log_probs(adapter: QwenVLAdapter, prompt: Prompt, completion: Completion, temperature: float) -> Tensor:
    """Log-probs [T] of one completion behind its prompt, as one ordinary row: nothing shared, no mask of ours."""
    device = adapter.device
    ids = torch.tensor([[*prompt.token_ids, *completion.token_ids]], device=device)
    types = torch.tensor([[*prompt.token_types, *(0 for _ in completion.token_ids)]], device=device)
    pixels, grid = prompt.pixel_values, prompt.image_grid_thw
    position_ids, _ = adapter.model.model.get_rope_index(ids, types, image_grid_thw=grid)
    hidden = adapter.model.model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=types,
        position_ids=position_ids,
        pixel_values=None if pixels is None else pixels.to(device),
        image_grid_thw=None if grid is None else grid.to(device),
        use_cache=False,
    ).last_hidden_state
    sources = hidden[0, len(prompt.token_ids) - 1 : -1]
    targets = torch.tensor(completion.token_ids, device=device)
    return token_log_probs(sources, adapter.head_weight, targets, temperature, adapter.banned_token_ids)


@torch.no_grad()
def check_packing(adapter: QwenVLAdapter, rows: Sequence[Row], temperature: float) -> float:
    """Difference between packed and plain log-probs of a micro-batch, in nats: the largest, or in bfloat16 the mean.

    Raises:
        RuntimeError: it is beyond the tolerance; training would follow a wrong gradient
    """
    was_training = adapter.model.training
    precision = torch.get_float32_matmul_precision()
    adapter.model.eval()
    torch.set_float32_matmul_precision("highest")  # no TF32: its rounding would hide what is looked for
    try:
        by_row = _differences(adapter, [_with_exact_features(adapter, row) for row in rows], temperature)
    finally:
        adapter.model.train(was_training)
        torch.set_float32_matmul_precision(precision)
    is_rounded = adapter.head_weight.dtype == torch.bfloat16
    found = [float(each.mean() if is_rounded else each.max()) for each in by_row]
    tolerance = BFLOAT16_TOLERANCE if is_rounded else TOLERANCE
    for row, difference in zip(rows, found, strict=True):
        if not difference <= tolerance:
            raise RuntimeError(
                f"self-check failed on sample {row.prompt.sample.id}: packed and plain log-probs differ by "
                f"{difference:.2e}, more than {tolerance:.0e}; try model.attention: eager, and report the versions"
            )
    return max(found)


def _differences(adapter: QwenVLAdapter, rows: Sequence[Row], temperature: float) -> list[Tensor]:
    """Absolute differences of the log-probs of all tokens, by row."""
    batch = move_to(build_micro_batch(rows, adapter.pad_token_id), adapter.device)
    packed = packed_log_probs(adapter, batch, temperature)
    plain = [
        torch.cat([plain_log_probs(adapter, row.prompt, completion, temperature) for completion in row.completions])
        for row in rows
    ]
    parts = packed.split([len(of_row) for of_row in plain])
    return [(p - q).abs() for p, q in zip(parts, plain, strict=True)]


def _with_exact_features(adapter: QwenVLAdapter, row: Row) -> Row:
    """The row with its image features in the precision of the weights: those of the rollout are rounded under autocast.

    Raises:
        RuntimeError: those of the rollout are not of the row's images
    """
    pixels, grid = row.prompt.pixel_values, row.prompt.image_grid_thw
    if row.image_features is None or adapter.autocast_dtype is None or pixels is None or grid is None:
        return row
    exact = adapter.encode_images(pixels.to(adapter.device), grid.to(adapter.device))
    difference = float((row.image_features - exact).norm() / exact.norm())
    if not difference <= FEATURE_TOLERANCE:
        raise RuntimeError(
            f"self-check failed on sample {row.prompt.sample.id}: the image features of the rollout differ from those "
            f"of its images by {difference:.2f} of their norm; report the versions in use"
        )
    return replace(row, image_features=exact)
