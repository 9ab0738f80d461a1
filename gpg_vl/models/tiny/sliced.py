"""Tiny models of LFM2-VL and MiniCPM-V, whose image processors cut large images by themselves."""

from __future__ import annotations

from functools import partial
from typing import Any

from transformers import (
    Lfm2VlConfig,
    Lfm2VlForConditionalGeneration,
    Lfm2VlImageProcessor,
    Lfm2VlProcessor,
    MiniCPMV4_6Config,
    MiniCPMV4_6ForConditionalGeneration,
    MiniCPMV4_6ImageProcessor,
    MiniCPMV4_6Processor,
    MiniCPMV4_6VideoProcessor,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)

from gpg_vl.models.tiny.family import TinyFamily, text_config
from gpg_vl.models.tiny.qwen3_5 import RECURRENT, slow_to_forget
from gpg_vl.models.tiny.tokenizer import build_tokenizer, chat_template, token_id

# --- LFM2-VL ---

_LFM2_TOKENS = {
    "image_token": "<image>",
    "image_start_token": "<|image_start|>",
    "image_end_token": "<|image_end|>",
    "image_thumbnail_token": "<|img_thumbnail|>",
}
_TILES = tuple(f"<|img_row_{row}_col_{column}|>" for row in range(1, 11) for column in range(1, 11))

_lfm2_tokenizer = partial(
    build_tokenizer,
    special=("<|pad|>", "<|im_start|>", "<|im_end|>", *_LFM2_TOKENS.values(), *_TILES),
    pad="<|pad|>",
    template=chat_template("<image>"),
    named=_LFM2_TOKENS,
)


def _lfm2_config(tokenizer: PreTrainedTokenizerFast) -> Lfm2VlConfig:
    layers = {"layer_types": ["conv", "full_attention", "conv"], "block_dim": 128, "conv_dim": 128}
    return Lfm2VlConfig(
        text_config=text_config(tokenizer, model_type="lfm2", block_auto_adjust_ff_dim=False, **layers),
        vision_config={
            "model_type": "siglip2_vision_model", "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
            "num_attention_heads": 4, "patch_size": 14, "num_patches": 16, "vision_use_head": False,
        },
        image_token_id=token_id(tokenizer, "<image>"),
        projector_hidden_size=128,
    )  # fmt: skip


def _lfm2_processor(tokenizer: PreTrainedTokenizerFast) -> ProcessorMixin:
    images = Lfm2VlImageProcessor(tile_size=84, min_image_tokens=2, max_image_tokens=9, encoder_patch_size=14)
    return Lfm2VlProcessor(images, tokenizer, chat_template=str(tokenizer.chat_template))


# --- MiniCPM-V 4.6 ---

_MINICPM_TOKENS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "image_start_token": "<image>",
    "image_end_token": "</image>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
}

_minicpm_tokenizer = partial(
    build_tokenizer,
    special=("<|endoftext|>", "<|im_start|>", "<|im_end|>", *_MINICPM_TOKENS.values()),
    template=chat_template("<|image_pad|>", "<|video_pad|>"),
    named=_MINICPM_TOKENS,
)


def _minicpm_config(tokenizer: PreTrainedTokenizerFast) -> MiniCPMV4_6Config:
    return MiniCPMV4_6Config(
        text_config=text_config(tokenizer, model_type="qwen3_5_text", head_dim=32, **RECURRENT),
        vision_config={
            "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
            "image_size": 112, "patch_size": 14,
        },
        insert_layer_id=0,
        image_token_id=token_id(tokenizer, "<|image_pad|>"),
        video_token_id=token_id(tokenizer, "<|video_pad|>"),
    )  # fmt: skip


def _minicpm_processor(tokenizer: PreTrainedTokenizerFast) -> ProcessorMixin:
    size: dict[str, Any] = {"scale_resolution": 112, "patch_size": 14}
    images, videos = MiniCPMV4_6ImageProcessor(**size), MiniCPMV4_6VideoProcessor(**size)
    return MiniCPMV4_6Processor(images, videos, tokenizer, chat_template=str(tokenizer.chat_template))


SLICED_FAMILIES = {
    "lfm2_vl": TinyFamily(Lfm2VlForConditionalGeneration, _lfm2_config, _lfm2_processor, _lfm2_tokenizer),
    "minicpmv4_6": TinyFamily(
        partial(slow_to_forget, MiniCPMV4_6ForConditionalGeneration),
        _minicpm_config,
        _minicpm_processor,
        _minicpm_tokenizer,
    ),
}
