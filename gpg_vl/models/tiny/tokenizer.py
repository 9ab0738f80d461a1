"""The tokenizer of tiny models: bytes, plus whole words of a given text; made here, so nothing is downloaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

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
"""Of the Qwen families. Token i has id i. Decoding without special tokens drops them."""

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


def chat_template(image: str, video: str = "") -> str:
    """Turns between ``<|im_start|>`` and ``<|im_end|>``, as in most families.

    Args:
        image: text of an image, with its placeholder
        video: likewise of a video
    """
    return _CHAT_TEMPLATE.replace("IMAGE", image).replace("VIDEO", video)


_CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for item in message['content'] -%}
{%- if item['type'] == 'image' -%}
{{- 'IMAGE' -}}
{%- elif item['type'] == 'video' -%}
{{- 'VIDEO' -}}
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

QWEN_TEMPLATE = chat_template(
    "<|vision_start|><|image_pad|><|vision_end|>", "<|vision_start|><|video_pad|><|vision_end|>"
)


def build_tokenizer(
    text: Sequence[str] = DEMO_TEXT,
    model_max_length: int = 4096,
    special: Sequence[str] = SPECIAL_TOKENS,
    eos: str = "<|im_end|>",
    pad: str = "<|endoftext|>",
    template: str = QWEN_TEMPLATE,
    named: Mapping[str, str] | None = None,
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer in which every word, digit and piece of punctuation of ``text`` is one token.

    Any other text is split into shorter tokens, down to single bytes, so every text is decoded unchanged.

    Args:
        special: tokens that decoding without special tokens drops; token i has id i
        named: some of them under the names that the family's processor asks for, such as ``image_token``
    """
    tokenizer = _with_byte_pieces(Tokenizer(_train_bpe(text, special)))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in TAG_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=eos,
        pad_token=pad,
        extra_special_tokens=list(special),
        padding_side="left",
        model_max_length=model_max_length,
        clean_up_tokenization_spaces=False,
        chat_template=template,
        **({"model_specific_special_tokens": dict(named)} if named else {}),
    )


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    index = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(index, int)
    return index


def _with_byte_pieces(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _train_bpe(text: Sequence[str], special: Sequence[str]) -> BPE:
    """Merges until every piece of ``text`` is one token; the vocabulary limit is never reached."""
    trainer = BpeTrainer(
        vocab_size=1 << 20,
        min_frequency=0,
        special_tokens=[*special, *TAG_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained = _with_byte_pieces(Tokenizer(BPE()))
    trained.train_from_iterator(text, trainer)
    assert isinstance(trained.model, BPE)
    return trained.model
