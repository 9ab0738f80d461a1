"""Writes tiny vision-language models with random weights, as ordinary model folders.

The folder has everything that a published Qwen2-VL or Qwen2.5-VL folder has: config, weights, generation config,
tokenizer, image processor and chat template, all loaded by transformers' own classes. So a run on it uses the real
code, with about 1.4 million parameters. The tokenizer is made here too: bytes, plus whole words of a given text.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import (
    GenerationConfig,
    PreTrainedModel,
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
)

from gpg_vl.files import follow_umask

Family = Literal["qwen2_vl", "qwen2_5_vl"]
DEFAULT_FAMILY: Family = "qwen2_vl"

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""Token i has id i. Decoding without special tokens drops them."""

TAG_TOKENS = ("<think>", "</think>", "<answer>", "</answer>")
"""One token each, with the ids after the special tokens; decoded as ordinary text."""

DEMO_TEXT = (
    "user",
    "system",
    "assistant",
    "How many shapes?",
    "What is the perimeter?",
    "Where is the red shape?",
    "Where is the green shape?",
    "Where is the blue shape?",
    "Where is the black shape?",
    "3 by 2",
    "[0, 0]",
)
"""The wording of the demo data of ``data_tools.generate``; each piece of it becomes one token."""

# A word with an optional space before it, a digit, a run of punctuation with an optional space after it, white space.
_PIECES = r" ?[A-Za-z]+|\d|[^\sA-Za-z\d]+ ?|\s+"

_CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for item in message['content'] -%}
{%- if item['type'] == 'image' -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif item['type'] == 'video' -%}
{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- else -%}
{{- item['text'] -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def write_tiny_model(
    folder: str | PathLike[str],
    family: Family = DEFAULT_FAMILY,
    seed: int = 0,
    tie_word_embeddings: bool = True,
    text: Sequence[str] = DEMO_TEXT,
    max_position_embeddings: int = 4096,
) -> Path:
    """Writes a tiny random model to ``folder``, which is created if needed, and returns the folder's path.

    Args:
        folder: files of an earlier model in it are overwritten
        family: the ``model_type`` of the model's config
        seed: determines the weights; the global random state stays unchanged
        tie_word_embeddings: whether the output head is the embedding matrix, as in the small published models
        text: words that become one token each; any other text is encoded as bytes
        max_position_embeddings: context length in tokens

    Raises:
        ValueError: the family is not one of the two, or the folder cannot be created
    """
    if family not in TINY_FAMILIES:
        raise ValueError(f"{family!r} is not a family of tiny models; the families are {sorted(TINY_FAMILIES)}")
    folder = _make_folder(folder)
    tokenizer = build_tokenizer(text, max_position_embeddings)
    config = {
        "text_config": _text_config(tokenizer),
        "tie_word_embeddings": tie_word_embeddings,
        **_text_ids(tokenizer),
        **_vision_ids(tokenizer),
    }
    _build_processor(family, tokenizer).save_pretrained(folder)
    model = _build_model(family, config, seed)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    follow_umask(folder)
    return folder


def _make_folder(folder: str | PathLike[str]) -> Path:
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot create the folder {path}: {error.strerror}; choose another one") from error
    return path


def build_tokenizer(text: Sequence[str] = DEMO_TEXT, model_max_length: int = 4096) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer in which every word, digit and piece of punctuation of ``text`` is one token.

    Any other text is split into shorter tokens, down to single bytes, so every text is decoded unchanged.
    """
    special = [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    tags = [AddedToken(token, special=False, normalized=False) for token in TAG_TOKENS]
    tokenizer = _with_byte_pieces(Tokenizer(_train_bpe(text)))
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(tags)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=list(SPECIAL_TOKENS),
        padding_side="left",
        model_max_length=model_max_length,
        clean_up_tokenization_spaces=False,
        chat_template=_CHAT_TEMPLATE,
    )


def _with_byte_pieces(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _train_bpe(text: Sequence[str]) -> BPE:
    """Merges until every piece of ``text`` is one token; the vocabulary limit is never reached."""
    trainer = BpeTrainer(
        vocab_size=1 << 20,
        min_frequency=0,
        special_tokens=[*SPECIAL_TOKENS, *TAG_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained = _with_byte_pieces(Tokenizer(BPE()))
    trained.train_from_iterator(text, trainer)
    assert isinstance(trained.model, BPE)
    return trained.model


def _text_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    tokens = {"bos_token_id": "<|endoftext|>", "eos_token_id": "<|im_end|>", "pad_token_id": "<|endoftext|>"}
    return {key: _token_id(tokenizer, token) for key, token in tokens.items()}


def _vision_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """The ids of the vision tokens, under the keys of both families' published configs."""
    tokens = {
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
        "vision_token_id": "<|vision_pad|>",
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
    }
    return {key: _token_id(tokenizer, token) for key, token in tokens.items()}


def _token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    index = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(index, int)
    return index


def _text_config(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": tokenizer.model_max_length,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1.0e4, "mrope_section": [4, 6, 6]},
        "initializer_range": _INITIALIZER_RANGE,
        **_text_ids(tokenizer),
    }


# About 1 / sqrt(hidden size); with transformers' default of 0.02, such a narrow model hardly learns to use the image.
_INITIALIZER_RANGE = 0.06

_VISION_CONFIGS: dict[str, dict[str, Any]] = {
    "qwen2_vl": {
        "depth": 2,
        "embed_dim": 128,
        "hidden_size": 128,
        "num_heads": 4,
        "mlp_ratio": 2,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "initializer_range": _INITIALIZER_RANGE,
    },
    "qwen2_5_vl": {
        "depth": 2,
        "hidden_size": 128,
        "out_hidden_size": 128,
        "num_heads": 4,
        "intermediate_size": 256,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 56,
        "fullatt_block_indexes": [1],
        "initializer_range": _INITIALIZER_RANGE,
    },
}

TINY_FAMILIES = {
    "qwen2_vl": (Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor),
    "qwen2_5_vl": (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor),
}


def _build_model(family: Family, config: dict[str, Any], seed: int) -> PreTrainedModel:
    config_class, model_class, _ = TINY_FAMILIES[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config_class(vision_config=_VISION_CONFIGS[family], **config))
    return model.to(torch.float32)


def _build_processor(family: Family, tokenizer: PreTrainedTokenizerFast) -> ProcessorMixin:
    _, _, processor_class = TINY_FAMILIES[family]
    size = {"shortest_edge": 784, "longest_edge": 784 * 64}  # pixels; 784 pixels are one image token
    return processor_class(
        image_processor=Qwen2VLImageProcessor(size=size),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(size=size),
        chat_template=_CHAT_TEMPLATE,
    )
