"""A model's folder whose tokenizer puts tokens in front of every text by itself, as those of many families do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer


def add_start(folder: Path, tokens: Sequence[str], *, writes_it: bool = False) -> str:
    """Returns what every text begins with.

    Args:
        tokens: of the tokenizer's own
        writes_it: whether the chat template writes them, too
    """
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.convert_tokens_to_ids(list(tokens))
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single=[*tokens, "$A"], pair=[*tokens, "$A", "$B"], special_tokens=list(zip(tokens, ids, strict=True))
    )
    tokenizer._tokenizer.save(str(folder / "tokenizer.json"))
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "bos_token": tokens[0]}))
    if writes_it:
        template = folder / "chat_template.jinja"
        template.write_text("".join(tokens) + template.read_text())
    return "".join(tokens)
