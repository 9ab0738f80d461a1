"""Loads the weights and the processor of a model folder, or says in one line what is missing in it."""

from __future__ import annotations

from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import AutoProcessor, PreTrainedModel

from gpg_vl.config import ModelConfig
from gpg_vl.errors import first_line


def load_weights(path: str, model_class: Any, config: ModelConfig) -> PreTrainedModel:
    """
    Raises:
        ValueError: a weight is missing or does not match the config
    """
    attention = {f"{name}_config": dense_attention(config, name) for name in ("text", "vision")}
    try:
        model, info = model_class.from_pretrained(
            path, dtype=torch.float32, attn_implementation=attention, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = first_line(error)
        raise ValueError(f"model.path: the weights in {path} cannot be loaded: {reason}") from error
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ValueError(f"model.path: {len(missing)} weights are missing in {path}, the first is {missing[0]}")
    loaded: PreTrainedModel = model
    return loaded


def dense_attention(config: ModelConfig, sub_model: Literal["text", "vision"]) -> str:
    """The attention implementation of a sub-model for rows that are not packed.

    Raises:
        ValueError: FlexAttention is requested on a CPU, where it has no backward pass
    """
    attention = config.attention_of(sub_model)
    if attention == "flex_attention" and not torch.cuda.is_available():
        raise ValueError("model.attention: flex_attention has no backward pass on a CPU; use auto, sdpa or eager")
    return "eager" if attention == "eager" else "sdpa"


def load_processor(path: str) -> Any:
    """
    Raises:
        ValueError: the folder has no complete processor
    """
    try:
        return AutoProcessor.from_pretrained(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = first_line(error)
        raise ValueError(
            f"model.path: {path} has no complete processor (tokenizer and preprocessor_config.json): {reason}"
        ) from error
