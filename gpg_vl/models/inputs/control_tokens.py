"""Which tokens a tokenizer reads as structure, whoever wrote their text."""

from __future__ import annotations

import re
from typing import Any

from gpg_vl.verifiers.reasoning import TAGS

_OF_BOXES = re.compile(r"<loc\d{4}>|</?box>")


def find_control_tokens(tokenizer: Any) -> dict[str, int]:
    """Every special token with its id: the named and the extra ones, and those that are only marked as special.

    Without what prompts themselves ask an answer to be written in: the tags, and the tokens of a box.
    """
    found = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    found |= {token.content: number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return {text: number for text, number in found.items() if text not in TAGS and not _OF_BOXES.fullmatch(text)}
