"""The first batch of every run: are the packed log-probs those of plain rows?

A wrong mask or wrong positions train silently on the wrong thing. So one group is run both ways, packed and as separate
rows through the model's own masks and positions, in the precision of the weights, before the first step. In float32 the
largest difference counts; in bfloat16, where single tokens are far apart by rounding alone, the mean one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gpg_vl.log_probs import token_log_probs
from gpg_vl.models.qwen_vl import QwenVLAdapter
from gpg_vl.packing import Row, build_micro_batch
from gpg_vl.records import Completion, Prompt, TrainingGroup
from gpg_vl.update import move_to, packed_log_probs

TOLERANCE = 1e-4
"""Largest difference of a token's log-probs with float32 weights, in nats."""
BFLOAT16_TOLERANCE = 0.02
"""Mean difference over the tokens with bfloat16 weights, in nats."""


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
def check_packing(adapter: QwenVLAdapter, group: TrainingGroup, temperature: float) -> float:
    """Difference between packed and plain log-probs of a group, in nats: the largest, or in bfloat16 the mean.

    Raises:
        RuntimeError: it is beyond the tolerance; training would follow a wrong gradient
    """
    was_training = adapter.model.training
    precision = torch.get_float32_matmul_precision()
    adapter.model.eval()
    torch.set_float32_matmul_precision("highest")  # no TF32: its rounding would hide what is looked for
    try:
        differences = _differences(adapter, group, temperature)
    finally:
        adapter.model.train(was_training)
        torch.set_float32_matmul_precision(precision)
    is_rounded = adapter.head_weight.dtype == torch.bfloat16
    difference = float(differences.mean() if is_rounded else differences.max())
    tolerance = BFLOAT16_TOLERANCE if is_rounded else TOLERANCE
    if not difference <= tolerance:
        raise RuntimeError(
            f"self-check failed on sample {group.prompt.sample.id}: packed and plain log-probs differ by "
            f"{difference:.2e}, more than {tolerance:.0e}; try model.attention: eager and report the versions in use"
        )
    return difference


def _differences(adapter: QwenVLAdapter, group: TrainingGroup, temperature: float) -> Tensor:
    """[M] absolute differences of the log-probs of all tokens of the group."""
    row = Row(group.prompt, group.completions, group.coefficients, _features(adapter, group))
    batch = move_to(build_micro_batch([row], adapter.pad_token_id), adapter.device)
    packed = packed_log_probs(adapter, batch, temperature)
    plain = torch.cat([plain_log_probs(adapter, group.prompt, c, temperature) for c in group.completions])
    return (packed - plain).abs()


def _features(adapter: QwenVLAdapter, group: TrainingGroup) -> Tensor | None:
    """The group's image features in the precision of the weights: those of the rollout are rounded under autocast."""
    pixels, grid = group.prompt.pixel_values, group.prompt.image_grid_thw
    if group.image_features is None or adapter.autocast_dtype is None or pixels is None or grid is None:
        return group.image_features
    return adapter.encode_images(pixels.to(adapter.device), grid.to(adapter.device))
