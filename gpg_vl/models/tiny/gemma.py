"""Tiny models of Gemma 3 and 4: images in few tokens, and a window of 16 in most layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    Gemma4AudioFeatureExtractor,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Gemma4ImageProcessor,
    Gemma4Processor,
    Gemma4VideoProcessor,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)

from gpg_vl.models.tiny.family import INITIALIZER_RANGE, TinyFamily, text_config
from gpg_vl.models.tiny.tokenizer import DEMO_TEXT, build_tokenizer, token_id

_WINDOW = 16

# The released templates without their checks: a system message stands before the first user's.
_TEMPLATE = """\
{{- bos_token -}}
{%- if messages[0]['role'] == 'system' -%}
{%- set prefix = messages[0]['content'][0]['text'] + '\\n\\n' -%}
{%- set turns = messages[1:] -%}
{%- else -%}
{%- set prefix = '' -%}
{%- set turns = messages -%}
{%- endif -%}
{%- for message in turns -%}
{{- 'TURN' + message['role'] | replace('assistant', 'model') + '\\n' -}}
{{- prefix if loop.first else '' -}}
{%- if message['content'] is string -%}
{{- message['content'] | trim -}}
{%- else -%}
{%- for item in message['content'] -%}
{{- 'IMAGE' if item['type'] == 'image' else item['text'] | trim -}}
{%- endfor -%}
{%- endif -%}
{{- 'END\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- 'TURNmodel\\n' -}}
{%- endif -%}
"""


def _build(
    text: Sequence[str], length: int, turn: str, end: str, image: str, named: dict[str, str], *more: str
) -> PreTrainedTokenizerFast:
    """A tokenizer whose turns begin with ``turn`` and end in ``end``, and whose template writes ``image`` for one."""
    special = ("<pad>", "<eos>", "<bos>", turn, end, *named.values(), *more)
    template = _TEMPLATE.replace("TURN", turn).replace("END", end).replace("IMAGE", image)
    tokenizer = build_tokenizer([*text, "model"], length, special, end, "<pad>", template, named)
    tokenizer.bos_token = "<bos>"
    return tokenizer


# --- Gemma 3 ---

_NAMED_3 = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}


def _tokenizer_3(text: Sequence[str] = DEMO_TEXT, model_max_length: int = 4096) -> PreTrainedTokenizerFast:
    tokenizer = _build(text, model_max_length, "<start_of_turn>", "<end_of_turn>", "<start_of_image>", _NAMED_3)
    tokenizer.add_tokens([AddedToken("\n" * num, normalized=False) for num in range(1, 5)])  # which vLLM asks for
    return tokenizer


def siglip(size: int, patch_size: int) -> dict[str, Any]:
    return {
        "model_type": "siglip_vision_model",
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": size,
        "patch_size": patch_size,
        "vision_use_head": False,
    }


def _gemma3_config(tokenizer: PreTrainedTokenizerFast) -> Gemma3Config:
    layers = ["sliding_attention", "sliding_attention", "full_attention"]
    text = text_config(
        tokenizer, head_dim=32, query_pre_attn_scalar=32, sliding_window=_WINDOW, layer_types=layers,
        bos_token_id=token_id(tokenizer, "<bos>"),
    )  # fmt: skip
    return Gemma3Config(
        text_config=text,
        vision_config=siglip(84, 14),
        mm_tokens_per_image=9,
        image_token_index=token_id(tokenizer, "<image_soft_token>"),
        boi_token_index=token_id(tokenizer, "<start_of_image>"),
        eoi_token_index=token_id(tokenizer, "<end_of_image>"),
        initializer_range=INITIALIZER_RANGE,
    )


def _gemma3_processor(tokenizer: PreTrainedTokenizerFast) -> ProcessorMixin:
    return Gemma3Processor(
        image_processor=Gemma3ImageProcessor(size={"height": 84, "width": 84}),
        tokenizer=tokenizer,
        chat_template=tokenizer.chat_template,
        image_seq_length=9,
    )


# --- Gemma 4 ---

_NAMED_4 = {
    "image_token": "<|image|>",
    "boi_token": "<|image>",
    "eoi_token": "<image|>",
    "audio_token": "<|audio|>",
    "boa_token": "<|audio>",
    "eoa_token": "<audio|>",
}


def _tokenizer_4(text: Sequence[str] = DEMO_TEXT, model_max_length: int = 4096) -> PreTrainedTokenizerFast:
    return _build(text, model_max_length, "<|turn>", "<turn|>", "<|image|>", _NAMED_4, "<|video|>")


def _gemma4_config(tokenizer: PreTrainedTokenizerFast) -> Gemma4Config:
    """Images see themselves whole, the last two layers use the keys of earlier ones, and the logits have a cap."""
    text = text_config(
        tokenizer, num_hidden_layers=4, head_dim=32, global_head_dim=64, sliding_window=_WINDOW,
        layer_types=["sliding_attention", "full_attention"] * 2, use_bidirectional_attention="vision",
        vocab_size_per_layer_input=len(tokenizer), hidden_size_per_layer_input=16, num_kv_shared_layers=2,
        final_logit_softcapping=8.0, bos_token_id=token_id(tokenizer, "<bos>"),
    )  # fmt: skip
    vision = {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "patch_size": 4,
        "pooling_kernel_size": 3,
        "position_embedding_size": 256,
        "default_output_length": 70,
        "initializer_range": INITIALIZER_RANGE,
    }
    ids: dict[str, Any] = {f"{name}_id": token_id(tokenizer, token) for name, token in _NAMED_4.items()}
    ids["eoa_token_index"] = ids.pop("eoa_token_id")
    return Gemma4Config(
        text_config=text,
        vision_config=vision,
        audio_config=None,
        video_token_id=token_id(tokenizer, "<|video|>"),
        initializer_range=INITIALIZER_RANGE,
        **ids,
    )


def _gemma4_processor(tokenizer: PreTrainedTokenizerFast) -> ProcessorMixin:
    return Gemma4Processor(
        feature_extractor=Gemma4AudioFeatureExtractor(),
        image_processor=Gemma4ImageProcessor(patch_size=4, max_soft_tokens=70),
        tokenizer=tokenizer,
        video_processor=Gemma4VideoProcessor(patch_size=4),
        chat_template=tokenizer.chat_template,
        image_seq_length=70,
    )


GEMMA_FAMILIES = {
    "gemma3": TinyFamily(Gemma3ForConditionalGeneration, _gemma3_config, _gemma3_processor, _tokenizer_3),
    "gemma4": TinyFamily(Gemma4ForConditionalGeneration, _gemma4_config, _gemma4_processor, _tokenizer_4),
}
