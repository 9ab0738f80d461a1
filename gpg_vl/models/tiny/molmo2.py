"""A tiny model of Molmo2: up to eight crops of 84 x 84 pixels that overlap, and the whole image in 9 tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import (
    AddedToken,
    Molmo2Config,
    Molmo2ForConditionalGeneration,
    Molmo2ImageProcessor,
    Molmo2Processor,
    Molmo2VideoProcessor,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)

from gpg_vl.models.tiny.family import TinyFamily, text_config
from gpg_vl.models.tiny.tokenizer import DEMO_TEXT, build_tokenizer, chat_template, token_id

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_OF_IMAGES = {
    "image_start_token_id": "<im_start>",
    "image_end_token_id": "<im_end>",
    "image_patch_id": "<im_patch>",
    "low_res_image_start_token_id": "<low_res_im_start>",
    "frame_start_token_id": "<frame_start>",
    "frame_end_token_id": "<frame_end>",
}
_OTHERS = ("<im_col>", "<im_low>", "<|image|>", "<|video|>")


def _tokenizer(text: Sequence[str] = DEMO_TEXT, model_max_length: int = 4096) -> PreTrainedTokenizerFast:
    """The tokens of images come last: the head has no rows for them."""
    template = chat_template("<|image|>", "<|video|>")
    tokenizer = build_tokenizer(text, model_max_length, _SPECIAL, template=template)
    of_images = [AddedToken(token, special=True, normalized=False) for token in (*_OF_IMAGES.values(), *_OTHERS)]
    tokenizer.add_tokens(of_images, special_tokens=True)
    return tokenizer


def _config(tokenizer: PreTrainedTokenizerFast) -> Molmo2Config:
    num_more = len(_OF_IMAGES) + len(_OTHERS)
    text = text_config(tokenizer, vocab_size=len(tokenizer) - num_more, additional_vocab_size=num_more, head_dim=32)
    vision = {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "image_size": [84, 84],
        "patch_size": 14,
    }
    pooling = {
        "vision_feature_layer": [2, 0],
        "hidden_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "intermediate_size": 256,
        "text_hidden_size": 128,
    }
    ids: dict[str, Any] = {name: token_id(tokenizer, token) for name, token in _OF_IMAGES.items()}
    return Molmo2Config(text_config=text, vision_config=vision, adapter_config=pooling, **ids)


def _processor(tokenizer: PreTrainedTokenizerFast) -> ProcessorMixin:
    size = {"height": 84, "width": 84}
    return Molmo2Processor(
        image_processor=Molmo2ImageProcessor(size=size, max_crops=8, overlap_margins=[1, 1]),
        video_processor=Molmo2VideoProcessor(size=size),
        tokenizer=tokenizer,
        chat_template=tokenizer.chat_template,
    )


MOLMO_FAMILIES = {"molmo2": TinyFamily(Molmo2ForConditionalGeneration, _config, _processor, _tokenizer)}
