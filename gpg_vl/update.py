"""TrainingGroup -> gradient -> one optimizer step. The only owner of the gradient's scale.

The loss is a sum over all completion tokens of the step, divided once by a denominator that is known before the first
backward pass, so neither micro-batches nor ranks nor accumulation change the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from gpg_vl.config import UpdateConfig
from gpg_vl.log_probs import token_log_probs
from gpg_vl.models.qwen_vl import QwenVLAdapter
from gpg_vl.packing import build_micro_batch, plan_micro_batches
from gpg_vl.records import MicroBatch, TrainingGroup


@dataclass(frozen=True, slots=True)
class UpdateStats:
    loss: float
    grad_norm: float  # before clipping
    num_micro_batches: int
    num_split_rows: int  # rows beyond one per group: prompts that ran again
    num_padded_tokens: int  # tokens of the forward passes, padding included
    kl: float | None = None  # mean k3 to the reference over this rank's tokens, where the objective has a reference


def packed_log_probs(adapter: QwenVLAdapter, batch: MicroBatch, temperature: float) -> Tensor:
    """Log-probs [M] of the completion tokens of a micro-batch, float32."""
    hidden = adapter.run_body(
        input_ids=batch.input_ids,
        token_types=batch.token_types,
        position_ids=batch.position_ids,
        segment_ids=batch.segment_ids,
        pixel_values=batch.pixel_values,
        image_grid_thw=batch.image_grid_thw,
        image_features=batch.image_features,
    )
    # index_select, not [...]: with indices that repeat, the backward of [...] adds up in an order left to the threads
    sources = hidden.flatten(0, 1).index_select(0, batch.source_index)
    return token_log_probs(sources, adapter.head_weight, batch.target_ids, temperature, adapter.banned_token_ids)


class PolicyForward(nn.Module):
    """Forward and log-probs as one module: the one that is wrapped for distributed training."""

    def __init__(self, adapter: QwenVLAdapter, temperature: float):
        super().__init__()
        self.model = adapter.model
        self._adapter = adapter
        self._temperature = temperature

    def forward(self, batch: MicroBatch) -> Tensor:
        """Log-probs [M] of the completion tokens of the micro-batch, float32."""
        with self._adapter.autocast():
            log_probs = packed_log_probs(self._adapter, batch, self._temperature)
        if torch.is_grad_enabled() and not log_probs.requires_grad:
            # rows without an image, where only the tower is trained: their gradient is zero, not an error
            log_probs = log_probs + 0 * sum(p.sum() for p in self.model.parameters() if p.requires_grad)
        return log_probs


def move_to(batch: MicroBatch, device: torch.device) -> MicroBatch:
    def move(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(device, non_blocking=True)

    return MicroBatch(**{name: move(getattr(batch, name)) for name in MicroBatch.__slots__})  # type: ignore[arg-type]


def accumulate_gradient(
    forward: nn.Module,
    groups: Sequence[TrainingGroup],
    denominator: float,
    config: UpdateConfig,
    pad_token_id: int,
    accelerator: Accelerator,
) -> UpdateStats:
    """Leaves the clipped gradient of ``sum of coefficient * log-prob / denominator`` on the weights.

    Args:
        groups: this rank's groups
        denominator: of the whole step, over all ranks

    Raises:
        FloatingPointError: the gradient is not finite
    """
    forward.train()
    plan = plan_micro_batches(groups, config.tokens_per_micro_batch, config.patches_per_micro_batch)
    loss = 0.0
    padded_tokens = 0
    for rows in plan:
        batch = move_to(build_micro_batch(rows, pad_token_id), accelerator.device)
        weighted_sum = (batch.coefficients * forward(batch)).sum()
        # the wrapper averages over ranks: undo it, the denominator is that of all ranks
        accelerator.backward(weighted_sum * (accelerator.num_processes / denominator))
        loss += float(weighted_sum.detach()) / denominator
        padded_tokens += batch.input_ids.numel()
    grad_norm = float(accelerator.clip_grad_norm_(forward.parameters(), config.max_grad_norm))
    if not math.isfinite(grad_norm):
        raise FloatingPointError(f"the gradient's norm is {grad_norm}; the weights were left as they were")
    num_rows = sum(len(rows) for rows in plan)
    return UpdateStats(loss, grad_norm, len(plan), num_rows - len(groups), padded_tokens)


def take_step(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Moves the weights along the accumulated gradient and forgets it.

    Args:
        learning_rate: of this step; a group's ``lr_scale`` is its part's share of it
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("lr_scale", 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
