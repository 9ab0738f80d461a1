"""Tiny models of the Qwen families: images as patches, M-RoPE positions on three axes."""

from __future__ import annotations

from typing import Any

from transformers import (
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from gpg_vl.models.tiny.family import INITIALIZER_RANGE, TinyFamily, text_config, text_ids
from gpg_vl.models.tiny.tokenizer import token_id


def _vision_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """The ids of the vision tokens, under the keys of the published configs."""
    tokens = {
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
    }
    return {key: token_id(tokenizer, token) for key, token in tokens.items()}


def _rope(*sections: int, **others: bool) -> dict[str, Any]:
    usual = {"rope_type": "default", "rope_theta": 1.0e4, "mrope_section": list(sections)}
    return {"rope_parameters": {**usual, **others}}


_PATCHES = {
    "depth": 2,
    "hidden_size": 128,
    "num_heads": 4,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "initializer_range": INITIALIZER_RANGE,
}


# --- Qwen2-VL, Qwen2.5-VL ---


def _old_config(tokenizer: PreTrainedTokenizerFast, vision: dict[str, Any]) -> dict[str, Any]:
    return {
        "text_config": text_config(tokenizer, **_rope(4, 6, 6)),
        "vision_config": {**_PATCHES, **vision},
        "vision_token_id": token_id(tokenizer, "<|vision_pad|>"),
        **text_ids(tokenizer),
        **_vision_ids(tokenizer),
    }


def _qwen2_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2VLConfig:
    return Qwen2VLConfig(**_old_config(tokenizer, {"embed_dim": 128, "mlp_ratio": 2}))


def _qwen2_5_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLConfig:
    windows = {"out_hidden_size": 128, "intermediate_size": 256, "window_size": 56, "fullatt_block_indexes": [1]}
    return Qwen2_5_VLConfig(**_old_config(tokenizer, windows))


def _old_processor(processor: type[Any], tokenizer: PreTrainedTokenizerFast) -> ProcessorMixin:
    size = {"shortest_edge": 784, "longest_edge": 784 * 64}  # pixels; 784 pixels are one image token
    made: ProcessorMixin = processor(
        image_processor=Qwen2VLImageProcessor(size=size),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(size=size),
        chat_template=tokenizer.chat_template,
    )
    return made


# --- Qwen3-VL ---


def patches_of_16(tokenizer: PreTrainedTokenizerFast) -> ProcessorMixin:
    """The processor of the newer families: 32 x 32 pixels are one image token."""
    size = {"shortest_edge": 1024, "longest_edge": 1024 * 64}
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size, patch_size=16),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(size=size, patch_size=16),
        chat_template=tokenizer.chat_template,
    )


def newer_config(tokenizer: PreTrainedTokenizerFast, text: dict[str, Any], vision: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the newer families' configs."""
    rope = _rope(6, 5, 5, mrope_interleaved=True)  # which transformers takes for granted, and vLLM reads
    return {
        "text_config": text_config(tokenizer, **{"head_dim": 32, **rope, **text}),
        "vision_config": {
            **_PATCHES,
            "patch_size": 16,
            "intermediate_size": 256,
            "out_hidden_size": 128,
            "num_position_embeddings": 64,
            **vision,
        },
        **_vision_ids(tokenizer),
    }


def _qwen3_config(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLConfig:
    return Qwen3VLConfig(**newer_config(tokenizer, {}, {"deepstack_visual_indexes": [0, 1]}))


def _qwen3_moe_config(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLMoeConfig:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 160, "norm_topk_prob": True}
    return Qwen3VLMoeConfig(**newer_config(tokenizer, experts, {"deepstack_visual_indexes": [0, 1]}))


QWEN_FAMILIES = {
    "qwen2_vl": TinyFamily(
        Qwen2VLForConditionalGeneration, _qwen2_config, lambda tokenizer: _old_processor(Qwen2VLProcessor, tokenizer)
    ),
    "qwen2_5_vl": TinyFamily(
        Qwen2_5_VLForConditionalGeneration,
        _qwen2_5_config,
        lambda tokenizer: _old_processor(Qwen2_5_VLProcessor, tokenizer),
    ),
    "qwen3_vl": TinyFamily(Qwen3VLForConditionalGeneration, _qwen3_config, patches_of_16),
    "qwen3_vl_moe": TinyFamily(Qwen3VLMoeForConditionalGeneration, _qwen3_moe_config, patches_of_16),
}
