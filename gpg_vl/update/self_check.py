"""Checks in the first batch of every run that the packed log-probs equal those of plain rows.

With a wrong mask or wrong positions, training would silently go wrong. So before the first step, a micro-batch runs
both packed and as separate rows with the model's own masks and positions, in the precision of the weights. In
float32 the largest difference counts; in bfloat16, where rounding alone can move single tokens far apart, a row's mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gpg_vl.models.adapter import Adapter
from gpg_vl.models.log_probs import token_log_probs
from gpg_vl.models.vision import feature_distance, move_vision
from gpg_vl.records import Completion, Encoded
from gpg_vl.update.packing import PackedRow, build_micro_batch
from gpg_vl.update.policy import move_to, packed_log_probs

TOLERANCE = 1e-4
"""Tolerance with float32 weights: largest difference of a token's log-probs, in nats."""
BFLOAT16_TOLERANCE = 0.02
"""Tolerance with bfloat16 weights: mean difference over the tokens of a row, in nats."""
FEATURE_TOLERANCE = 0.25
"""Tolerance for image features rounded by bfloat16 autocast: difference as a fraction of their norm."""


def plain_log_probs(adapter: Adapter, encoded: Encoded, completion: Completion, temperature: float) -> Tensor:
    """Log-probs [T] of one completion after its prompt, as one ordinary row: nothing shared, no mask of our own."""
    hidden = adapter.run_plain(encoded, completion.token_ids)
    sources = hidden[len(encoded.token_ids) - 1 : -1]
    targets = torch.tensor(completion.token_ids, device=adapter.device)
    return token_log_probs(
        sources, adapter.head_weight, targets, temperature, adapter.banned_token_ids, adapter.logit_cap
    )


@torch.no_grad()
def check_packing(adapter: Adapter, rows: Sequence[PackedRow], temperature: float) -> float:
    """Difference between packed and plain log-probs of a micro-batch, in nats: the largest, or in bfloat16 the mean.

    Raises:
        RuntimeError: it exceeds the tolerance; training would follow a wrong gradient
    """
    was_training = adapter.model.training
    precision = torch.get_float32_matmul_precision()
    adapter.model.eval()
    torch.set_float32_matmul_precision("highest")  # no TF32: its rounding would hide a difference
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
                f"self-check failed on sample {row.sample_id}: packed and plain log-probs differ by "
                f"{difference:.2e}, more than {tolerance:.0e}; try model.attention: eager, and report the versions"
            )
    return max(found)


def _differences(adapter: Adapter, rows: Sequence[PackedRow], temperature: float) -> list[Tensor]:
    """Absolute differences of the log-probs of all tokens, by row."""
    batch = move_to(build_micro_batch(rows, adapter), adapter.device)
    packed = packed_log_probs(adapter, batch, temperature)
    plain = [
        torch.cat([plain_log_probs(adapter, row.encoded, completion, temperature) for completion in row.completions])
        for row in rows
    ]
    parts = packed.split([len(of_row) for of_row in plain])
    return [(p - q).abs() for p, q in zip(parts, plain, strict=True)]


def _with_exact_features(adapter: Adapter, row: PackedRow) -> PackedRow:
    """The row with image features in the precision of the weights; the rollout's features are rounded by autocast.

    Raises:
        RuntimeError: the rollout's features do not belong to the row's images
    """
    vision = row.encoded.vision
    if row.features is None or adapter.autocast_dtype is None or vision is None:
        return row
    exact = adapter.encode_images(move_vision(vision, adapter.device))
    difference = feature_distance(row.features, exact)
    if not difference <= FEATURE_TOLERANCE:
        raise RuntimeError(
            f"self-check failed on sample {row.sample_id}: the image features of the rollout differ from those "
            f"of its images by {difference:.2f} times their norm; report the versions in use"
        )
    return replace(row, features=exact)
