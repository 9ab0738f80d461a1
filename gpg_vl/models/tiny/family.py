"""What a family of tiny models is made of, and what the families' texts share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin

from gpg_vl.models.tiny.tokenizer import build_tokenizer, token_id


@dataclass(frozen=True, slots=True)
class TinyFamily:
    """How to make a model of the family, with a processor of the family's own class."""

    model: Callable[[Any], PreTrainedModel]
    config: Callable[[PreTrainedTokenizerFast], PreTrainedConfig]
    processor: Callable[[PreTrainedTokenizerFast], ProcessorMixin]
    tokenizer: Callable[..., PreTrainedTokenizerFast] = build_tokenizer
    """Called with the words and the context length."""


# About 1 / sqrt(hidden size); with transformers' default of 0.02, such a narrow model hardly learns to use the image.
INITIALIZER_RANGE = 0.06


def text_config(tokenizer: PreTrainedTokenizerFast, **more: Any) -> dict[str, Any]:
    """A text model of 0.9 million weights, under the keys that most families share."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": tokenizer.model_max_length,
        "initializer_range": INITIALIZER_RANGE,
        **text_ids(tokenizer),
        **more,
    }


def text_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    end, pad = str(tokenizer.eos_token), str(tokenizer.pad_token)
    return {
        "bos_token_id": token_id(tokenizer, pad),
        "eos_token_id": token_id(tokenizer, end),
        "pad_token_id": token_id(tokenizer, pad),
    }
