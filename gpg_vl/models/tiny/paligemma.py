"""A tiny model of PaliGemma 2: images of 56 x 56 pixels in 16 tokens, a window of 16, and caps on scores and logits."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import (
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    SiglipImageProcessor,
)
from transformers.models.paligemma.processing_paligemma import EXTRA_TOKENS

from gpg_vl.models.tiny.family import TinyFamily, text_config
from gpg_vl.models.tiny.gemma import siglip
from gpg_vl.models.tiny.tokenizer import DEMO_TEXT, build_tokenizer, token_id

_SPECIAL = ("<pad>", "<eos>", "<bos>", "<image>")


def _tokenizer(text: Sequence[str] = DEMO_TEXT, model_max_length: int = 4096) -> PreTrainedTokenizerFast:
    """With the tokens of places and of outlines, and without a template."""
    tokenizer = build_tokenizer(
        [*text, "User: ", "Assistant: "], model_max_length, _SPECIAL, "<eos>", "<pad>", "", {"image_token": "<image>"}
    )
    tokenizer.chat_template = None
    tokenizer.bos_token = "<bos>"
    tokenizer.add_tokens(EXTRA_TOKENS)
    return tokenizer


def _config(tokenizer: PreTrainedTokenizerFast) -> PaliGemmaConfig:
    text = text_config(
        tokenizer, model_type="gemma2", head_dim=32, query_pre_attn_scalar=32, sliding_window=16,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        attn_logit_softcapping=50.0, final_logit_softcapping=8.0, bos_token_id=token_id(tokenizer, "<bos>"),
    )  # fmt: skip
    return PaliGemmaConfig(
        text_config=text,
        vision_config=siglip(56, 14),
        image_token_index=token_id(tokenizer, "<image>"),
        projection_dim=128,
        hidden_size=128,
        vocab_size=len(tokenizer),
    )


def _processor(tokenizer: PreTrainedTokenizerFast) -> ProcessorMixin:
    images = SiglipImageProcessor(size={"height": 56, "width": 56}, image_seq_length=16)
    return PaliGemmaProcessor(image_processor=images, tokenizer=tokenizer)


PALIGEMMA_FAMILIES = {
    "paligemma": TinyFamily(PaliGemmaForConditionalGeneration, _config, _processor, _tokenizer),
}
