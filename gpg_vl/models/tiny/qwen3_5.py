"""Tiny models of Qwen3.5 and its mixture of experts: three recurrent layers, then one of attention."""

from __future__ import annotations

from functools import partial
from math import log
from typing import Any

from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
)

from gpg_vl.models.tiny.family import TinyFamily
from gpg_vl.models.tiny.qwen import newer_config, patches_of_16

RECURRENT: dict[str, Any] = {
    "num_hidden_layers": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1.0e4,
        "partial_rotary_factor": 0.5,
        "mrope_section": [3, 3, 2],
        "mrope_interleaved": True,
    },
}
"""Of the text model."""
_EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 96,
    "shared_expert_intermediate_size": 96,
}


def slow_to_forget(model_class: type[PreTrainedModel], config: Any) -> PreTrainedModel:
    """A model whose states last for tens of tokens; those of transformers' start are gone after one or two."""
    model = model_class(config)
    for name, parameter in model.named_parameters():
        if name.endswith("A_log"):
            parameter.data.sub_(log(16))
    return model


def _config(tokenizer: PreTrainedTokenizerFast) -> Qwen3_5Config:
    return Qwen3_5Config(**newer_config(tokenizer, RECURRENT, {}))


def _moe_config(tokenizer: PreTrainedTokenizerFast) -> Qwen3_5MoeConfig:
    return Qwen3_5MoeConfig(**newer_config(tokenizer, {**RECURRENT, **_EXPERTS}, {}))


QWEN3_5_FAMILIES = {
    "qwen3_5": TinyFamily(partial(slow_to_forget, Qwen3_5ForConditionalGeneration), _config, patches_of_16),
    "qwen3_5_moe": TinyFamily(partial(slow_to_forget, Qwen3_5MoeForConditionalGeneration), _moe_config, patches_of_16),
}
