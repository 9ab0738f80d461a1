"""The kit as the sections use it: an adapter on a random model, a group of completions, one packed pass."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.groups import build_adapter, wrap
from benchmarks.models import TINY_QWEN2_5_VL, TINY_QWEN2_VL, ModelShape
from gpg_vl import log_probs
from gpg_vl.config import LoraConfig
from gpg_vl.models.qwen_vl import QwenVLAdapter
from gpg_vl.packing import build_micro_batch, split_into_rows
from gpg_vl.records import MicroBatch, TrainingGroup
from gpg_vl.update import PolicyForward, move_to


def sized(shape: ModelShape, *, is_tiny: bool) -> ModelShape:
    """``shape``, or the tiny one of its family."""
    if not is_tiny:
        return shape
    return TINY_QWEN2_VL if shape.family == "qwen2_vl" else TINY_QWEN2_5_VL


def build(shape: ModelShape, device: str, dtype: str, **options: Any) -> QwenVLAdapter:
    """The adapter; its processor's files are gone once it is built."""
    with tempfile.TemporaryDirectory() as folder:
        return build_adapter(shape, Path(folder), dtype, device=device, **options)


def compute_dtype(device: str) -> str:
    """What the recipes compute in; a CPU has no speed in bfloat16."""
    return "bfloat16" if device == "cuda" else "float32"


def in_dtype(adapter: QwenVLAdapter, shape: ModelShape, dtype: str) -> QwenVLAdapter:
    """The same model and weights under an adapter that computes in ``dtype``."""
    config: Any = {"dtype": dtype}
    return wrap(adapter.model, adapter.processor, shape, replace(adapter.config, **config))


def set_attention(adapter: QwenVLAdapter, attention: str) -> None:
    """The attention code of packed rows."""
    config: Any = {"attention": attention}
    adapter.config = replace(adapter.config, **config)


def pack(adapter: QwenVLAdapter, groups: Sequence[TrainingGroup]) -> MicroBatch:
    """Each group as one row, on the device."""
    rows = [row for group in groups for row in split_into_rows(group, 10**9)]
    return move_to(build_micro_batch(rows, adapter.pad_token_id), adapter.device)


def without_borders(batch: MicroBatch) -> MicroBatch:
    """A wrong mask: every completion also sees those before it."""
    return replace(batch, segment_ids=batch.segment_ids.clamp(max=1))


def packed_log_probs(adapter: QwenVLAdapter, batch: MicroBatch) -> Tensor:
    return PolicyForward(adapter, 1.0)(batch)  # type: ignore[no-any-return]


def packed_pass(adapter: QwenVLAdapter, batch: MicroBatch, divisor: float) -> Tensor:
    """Log-probs [M]; the gradient is left on the model, which had none."""
    adapter.model.zero_grad()
    found = packed_log_probs(adapter, batch)
    ((batch.coefficients * found).sum() / divisor).backward()
    return found.detach()


@contextmanager
def head_chunk(logits: int) -> Iterator[None]:
    """Within, the head runs over chunks of so many logits."""
    before = log_probs.LOGITS_PER_CHUNK
    log_probs.LOGITS_PER_CHUNK = logits
    try:
        yield
    finally:
        log_probs.LOGITS_PER_CHUNK = before


def attach_lora() -> LoraConfig:
    """The adapter that a recipe gets with nothing said."""
    return LoraConfig()


def count_tokens(groups: Sequence[TrainingGroup]) -> int:
    """Completion tokens."""
    return sum(len(completion.token_ids) for group in groups for completion in group.completions)


def no_grad_pass(adapter: QwenVLAdapter, batch: MicroBatch) -> Tensor:
    with torch.no_grad():
        return packed_log_probs(adapter, batch)
