"""AdamW, and the learning rate as a plain function of the step."""

from __future__ import annotations

import math

import torch

from gpg_vl.config import UpdateConfig
from gpg_vl.models.qwen_vl import QwenVLAdapter


def build_optimizer(adapter: QwenVLAdapter, config: UpdateConfig) -> torch.optim.AdamW:
    """AdamW on the trainable float32 weights."""
    parameters = [parameter for _, parameter in adapter.trainable_parameters()]
    return torch.optim.AdamW(parameters, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay)


def learning_rate(config: UpdateConfig, step: int, total_steps: int) -> float:
    """Learning rate of ``step``, counted from 0, of a run of ``total_steps``.

    Linear warm-up, times the schedule's fall from 1 to ``min_learning_rate_ratio`` over the whole run.
    """
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    progress = min(1.0, step / total_steps)
    remaining = {"linear": 1 - progress, "cosine": 0.5 + 0.5 * math.cos(math.pi * progress), "constant": 1.0}
    low = config.min_learning_rate_ratio
    return config.learning_rate * warmup * (low + (1 - low) * remaining[config.schedule])
