"""The policy's forward on a micro-batch: packed rows in, log-probs of the completion tokens out."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from gpg_vl.models.adapter import Adapter
from gpg_vl.models.inputs.vision_records import move_features, move_vision, select_features
from gpg_vl.models.log_probs import token_log_probs
from gpg_vl.models.packed.kept_prompt_keys import KeptPrompt
from gpg_vl.records import MicroBatch


def packed_states(adapter: Adapter, batch: MicroBatch, cache: Cache | None = None) -> Tensor:
    """Hidden states [R, S, H] of a micro-batch's rows, behind what a cache holds."""
    vision, features = batch.vision, batch.features
    if vision is not None and batch.feature_index is not None:
        features = select_features(adapter.encode_images(vision), batch.feature_index)
        vision = None
    # what pads an ordinary row on the right is after all it reads
    has_segments = batch.is_packed or adapter.sees_whole_prompts
    return adapter.run_body(
        input_ids=batch.input_ids,
        token_types=batch.token_types,
        position_ids=batch.position_ids,
        segment_ids=batch.segment_ids if has_segments else None,
        vision=vision,
        features=features,
        cache=cache,
    )


def source_states(adapter: Adapter, batch: MicroBatch, prompt: KeptPrompt | None = None) -> Tensor:
    """Hidden states [M, H] from which the completion tokens of a micro-batch are predicted.

    Args:
        prompt: that the batch runs behind (``kept_prompts.build_part``); None: it holds its prompts
    """
    states = packed_states(adapter, batch, None if prompt is None else prompt.keys).flatten(0, 1)
    if prompt is not None:
        states = torch.cat([prompt.last_state.leaf, states])
    # index_select, not [...]: for repeated indices, the summation order in the backward of [...] depends on threads
    return states.index_select(0, batch.source_index)


def packed_log_probs(
    adapter: Adapter, batch: MicroBatch, temperature: float, prompt: KeptPrompt | None = None
) -> Tensor:
    """Log-probs [M] of the completion tokens of a micro-batch, float32. For ``prompt`` see ``source_states``."""
    sources = source_states(adapter, batch, prompt)
    return token_log_probs(
        sources, adapter.head_weight, batch.target_ids, temperature, adapter.banned_token_ids, adapter.logit_cap
    )


class PolicyForward(nn.Module):
    """Forward and log-probs as one module, which is wrapped for distributed training."""

    def __init__(self, adapter: Adapter, temperature: float):
        super().__init__()
        self.model = adapter.model
        self.adapter = adapter
        self._temperature = temperature
        self.is_sharded = False
        """Whether FSDP2 has sharded the weights; then a layout accepts log-probs without a gradient."""

    def train(self, mode: bool = True) -> Self:
        """Of a sharded model, this is also for the one that its weights are gathered in."""
        super().train(mode)
        self.adapter.model.train(mode)
        return self

    def forward(self, batch: MicroBatch, prompt: KeptPrompt | None = None) -> Tensor:
        """Log-probs [M] of the completion tokens of the micro-batch, float32. For ``prompt`` see ``source_states``."""
        with self.adapter.autocast():
            log_probs = packed_log_probs(self.adapter, batch, self._temperature, prompt)
        if torch.is_grad_enabled() and not log_probs.requires_grad and not self.is_sharded:
            # if only the tower is trained, rows without an image have a zero gradient, which is not an error
            log_probs = log_probs + 0 * sum(p.sum() for p in self.model.parameters() if p.requires_grad)
        return log_probs


def move_to(batch: MicroBatch, device: torch.device) -> MicroBatch:
    def move(tensor: Tensor) -> Tensor:
        return tensor.to(device, non_blocking=True)

    return MicroBatch(
        input_ids=move(batch.input_ids),
        token_types=move(batch.token_types),
        position_ids=move(batch.position_ids),
        segment_ids=move(batch.segment_ids),
        vision=None if batch.vision is None else move_vision(batch.vision, device),
        features=None if batch.features is None else move_features(batch.features, device),
        source_index=move(batch.source_index),
        target_ids=move(batch.target_ids),
        coefficients=move(batch.coefficients),
        is_packed=batch.is_packed,
        feature_index=None if batch.feature_index is None else move(batch.feature_index),
    )
