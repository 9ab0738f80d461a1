"""Tiny models of the families that cut an image into tiles; a tile of 84 x 84 pixels is nine tokens."""

from __future__ import annotations

from functools import partial
from typing import Any

from transformers import (
    GotOcr2ImageProcessor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from gpg_vl.models.tiny.family import INITIALIZER_RANGE, TinyFamily, text_config
from gpg_vl.models.tiny.tokenizer import build_tokenizer, chat_template, token_id

TILE = 84
_TOKENS_PER_TILE = 9
_SQUARE = {"height": TILE, "width": TILE}
_TOWER = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": TILE,
    "patch_size": 14,
}


def _named(tokens: dict[str, str], *more: str, template: str) -> Any:
    """A maker of tokenizers with the family's vision tokens."""
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *tokens.values(), *more)
    return partial(build_tokenizer, special=special, named=tokens, template=template)


# --- InternVL ---

_INTERNVL_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}


def _internvl_config(tokenizer: PreTrainedTokenizerFast) -> InternVLConfig:
    return InternVLConfig(
        text_config=text_config(tokenizer, model_type="qwen3", head_dim=32),
        vision_config={
            **_TOWER, "model_type": "internvl_vision", "image_size": [TILE, TILE], "patch_size": [14, 14],
            "initializer_range": INITIALIZER_RANGE,
        },
        image_token_id=token_id(tokenizer, "<IMG_CONTEXT>"),
    )  # fmt: skip


def _internvl_processor(tokenizer: PreTrainedTokenizerFast) -> ProcessorMixin:
    return InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=_SQUARE),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=_SQUARE),
        image_seq_length=_TOKENS_PER_TILE,
        chat_template=tokenizer.chat_template,
    )


# --- SmolVLM2, Idefics3 ---

_SMOLVLM_TOKENS = {
    "fake_image_token": "<fake_token_around_image>",
    "image_token": "<image>",
    "global_image_token": "<global-img>",
    "end_of_utterance_token": "<end_of_utterance>",
    "video_token": "<video>",
}
_SMOLVLM_TEMPLATE = """\
<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}\
{{ ':' if message['content'][0]['type'] == 'image' else ': ' }}\
{% for item in message['content'] %}{{ '<image>' if item['type'] == 'image' else item['text'] }}{% endfor %}\
<end_of_utterance>
{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"""

_ROWS_AND_COLUMNS = tuple(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5))
_smolvlm_tokenizer = partial(
    build_tokenizer,
    special=("<|endoftext|>", "<|im_start|>", *_SMOLVLM_TOKENS.values(), *_ROWS_AND_COLUMNS),
    named=_SMOLVLM_TOKENS,
    template=_SMOLVLM_TEMPLATE,
    eos="<end_of_utterance>",
)


def _smolvlm_config(config: type[Any], tokenizer: PreTrainedTokenizerFast) -> Any:
    return config(
        text_config=text_config(tokenizer, model_type="llama"),
        vision_config={**_TOWER, "initializer_range": INITIALIZER_RANGE},
        image_token_id=token_id(tokenizer, "<image>"),
        pad_token_id=token_id(tokenizer, "<|endoftext|>"),
        scale_factor=2,
    )


def _tiles_of(image_processor: type[Any]) -> Any:
    return image_processor(size={"longest_edge": 4 * TILE}, max_image_size={"longest_edge": TILE})


def _smolvlm_processor(tokenizer: PreTrainedTokenizerFast) -> ProcessorMixin:
    return SmolVLMProcessor(
        _tiles_of(SmolVLMImageProcessor),
        tokenizer,
        SmolVLMVideoProcessor(size={"longest_edge": 4 * TILE}, max_image_size={"longest_edge": TILE}),
        image_seq_len=_TOKENS_PER_TILE,
        chat_template=str(tokenizer.chat_template),
    )


def _idefics3_processor(tokenizer: PreTrainedTokenizerFast) -> ProcessorMixin:
    return Idefics3Processor(
        _tiles_of(Idefics3ImageProcessor),
        tokenizer,
        image_seq_len=_TOKENS_PER_TILE,
        chat_template=str(tokenizer.chat_template),
    )


# --- LLaVA-OneVision ---

_LLAVA_TOKENS = {"image_token": "<image>", "video_token": "<video>"}


def _llava_grids() -> list[list[int]]:
    return [[TILE * rows, TILE * columns] for rows in (1, 2, 3) for columns in (1, 2, 3)]


def _llava_config(tokenizer: PreTrainedTokenizerFast) -> LlavaOnevisionConfig:
    return LlavaOnevisionConfig(
        text_config=text_config(tokenizer, model_type="qwen2"),
        vision_config={**_TOWER, "model_type": "siglip_vision_model", "patch_size": 28, "vision_use_head": False},
        image_token_index=token_id(tokenizer, "<image>"),
        video_token_index=token_id(tokenizer, "<video>"),
        image_grid_pinpoints=_llava_grids(),
    )


def _llava_processor(tokenizer: PreTrainedTokenizerFast) -> ProcessorMixin:
    return LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(
            size=_SQUARE, image_grid_pinpoints=list(map(list, _llava_grids()))
        ),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(size=_SQUARE),
        num_image_tokens=_TOKENS_PER_TILE,
        vision_feature_select_strategy="full",
        chat_template=tokenizer.chat_template,
    )


TILED_FAMILIES = {
    "internvl": TinyFamily(
        InternVLForConditionalGeneration,
        _internvl_config,
        _internvl_processor,
        _named(_INTERNVL_TOKENS, template=chat_template("<IMG_CONTEXT>\\n", "<video>\\n")),
    ),
    "smolvlm": TinyFamily(
        SmolVLMForConditionalGeneration, partial(_smolvlm_config, SmolVLMConfig), _smolvlm_processor, _smolvlm_tokenizer
    ),
    "idefics3": TinyFamily(
        Idefics3ForConditionalGeneration,
        partial(_smolvlm_config, Idefics3Config),
        _idefics3_processor,
        _smolvlm_tokenizer,
    ),
    "llava_onevision": TinyFamily(
        LlavaOnevisionForConditionalGeneration,
        _llava_config,
        _llava_processor,
        _named(_LLAVA_TOKENS, template=chat_template("<image>")),
    ),
}
