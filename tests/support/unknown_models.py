"""Tiny models of a class that the kit has no adapter for, as ordinary folders."""

from __future__ import annotations

from pathlib import Path

from transformers import (
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PixtralImageProcessor,
    PixtralProcessor,
    SiglipImageProcessor,
)

from gpg_vl.models.tiny import TINY_FAMILIES
from gpg_vl.models.tiny.family import text_config
from gpg_vl.models.tiny.tokenizer import DEMO_TEXT, token_id


def write_llava(folder: Path) -> Path:
    """LLaVA, the first one: every image at one size, 9 tokens, positions on one axis."""
    tokenizer = TINY_FAMILIES["llava_onevision"].tokenizer(DEMO_TEXT, 4096)
    vision = {
        "model_type": "siglip_vision_model", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "image_size": 84, "patch_size": 28, "vision_use_head": False,
    }  # fmt: skip
    config = LlavaConfig(
        text_config=text_config(tokenizer, model_type="qwen2"), vision_config=vision, vision_feature_layer=-1,
        image_token_index=token_id(tokenizer, "<image>"), vision_feature_select_strategy="full",
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    LlavaProcessor(
        image_processor=SiglipImageProcessor(size={"height": 84, "width": 84}), tokenizer=tokenizer, patch_size=28,
        vision_feature_select_strategy="full", chat_template=tokenizer.chat_template,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def write_pixtral(folder: Path) -> Path:
    """Pixtral: LLaVA's class with a tower for images of any size; its processor ends the rows of an image."""
    tokenizer = TINY_FAMILIES["mistral3"].tokenizer(DEMO_TEXT, 4096)
    vision = {
        "model_type": "pixtral", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "image_size": 336, "patch_size": 28,
    }  # fmt: skip
    config = LlavaConfig(
        text_config=text_config(tokenizer, model_type="mistral", head_dim=32, sliding_window=None),
        vision_config=vision, vision_feature_layer=-1, vision_feature_select_strategy="full",
        image_token_index=token_id(tokenizer, "[IMG]"),
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    PixtralProcessor(
        PixtralImageProcessor(size={"longest_edge": 336}, patch_size={"height": 28, "width": 28}), tokenizer,
        patch_size=28, chat_template=tokenizer.chat_template,
    ).save_pretrained(folder)  # fmt: skip
    return folder
