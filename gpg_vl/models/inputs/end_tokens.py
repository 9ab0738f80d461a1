"""Which tokens end a completion and which one fills a row, from what a model folder says of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from transformers import GenerationConfig

from gpg_vl.errors import ModelMistake
from gpg_vl.models.folder.loading import check_names


def read_generation_config(path: str) -> GenerationConfig | None:
    """That of a folder, as ``from_pretrained`` reads it together with the weights; None where there is none.

    Raises:
        ValueError: it is no JSON object
    """
    check_names(path)
    with suppress(OSError):
        return GenerationConfig.from_pretrained(path)
    return None


def find_end_tokens(model: Any, tokenizer: Any) -> tuple[Any, ...]:
    """From the model's generation config, or else from the tokenizer; as they are written there."""
    ends = model.generation_config.eos_token_id
    if ends is None:
        ends = tokenizer.eos_token_id
    return tuple(ends) if isinstance(ends, list | tuple) else () if ends is None else (ends,)


def find_pad_token(model: Any, tokenizer: Any, end_token_ids: Sequence[int], num_logits: int) -> int:
    """The tokenizer's, or else that of the generation config, or an end token: no padded place is ever read."""
    for token in (tokenizer.pad_token_id, model.generation_config.pad_token_id):
        if _is_id(token, num_logits):
            return int(token)
    return end_token_ids[0]


def refuse_wrong_ends(path: str, end_token_ids: Sequence[Any], num_logits: int) -> None:
    """
    Args:
        num_logits: rows of the head

    Raises:
        ModelMistake: there is no end token, or one that the head cannot give
    """
    way_out = "correct eos_token_id in its generation_config.json"
    if not end_token_ids:
        raise ModelMistake(f"model.path: no token ends a completion of {path}: its eos_token_id is empty; {way_out}")
    wrong = [token for token in end_token_ids if not _is_id(token, num_logits)]
    if wrong:
        raise ModelMistake(
            f"model.path: completions of {path} end at token {wrong[0]!r}, and the model has {num_logits} tokens; "
            f"{way_out}"
        )


def _is_id(token: object, num_logits: int) -> bool:
    return isinstance(token, int) and not isinstance(token, bool) and 0 <= token < num_logits
