"""A recipe's model as shapes, with the adapter that it would train."""

from __future__ import annotations

from dataclasses import replace

import torch

from gpg_vl.config import ModelConfig
from gpg_vl.models import load_adapter
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.weights.lora import attach


def load_shapes(config: ModelConfig, is_rounded: bool = False) -> Adapter:
    """The adapter of the model's folder on the meta device; reads no weights.

    Args:
        is_rounded: whether it trains with rounded weights

    Raises:
        ValueError: the folder holds no model that the kit knows
    """
    if config.attention_of("text") == "flex_attention":
        config = replace(config, attention="auto")  # the same kernel on a GPU, and one that runs on shapes
    adapter = load_adapter(config, with_weights=False)
    if config.lora is not None:
        with torch.device("meta"):
            attach(adapter.model, config.lora, adapter.lora_layers, config.path)
    if is_rounded:
        adapter.round_weights()
    return adapter
