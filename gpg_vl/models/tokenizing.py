"""Text -> token ids, with a deadline: a pattern in a tokenizer.json may take years on some texts."""

from __future__ import annotations

from typing import Any

from gpg_vl.errors import ModelMistake, first_line
from gpg_vl.models.deadline import run_within

MAX_SECONDS = 20.0  # of a processor, for one text


def read_tokens(tokenizer: Any, text: str, path: str) -> list[int]:
    """The tokens of ``text``, none added.

    Args:
        path: what the message calls the model

    Raises:
        ModelMistake: the tokenizer fails, or takes too long
    """
    try:
        ids: list[int] = run_within(MAX_SECONDS, lambda: tokenizer(text, add_special_tokens=False).input_ids)
    except TimeoutError as error:
        lack = f"takes over {MAX_SECONDS:g} s for one text"
        raise ModelMistake(f"model.path: the tokenizer of {path} {lack}; restore it") from error
    except Exception as error:
        raise ModelMistake(
            f"model.path: the tokenizer of {path} fails ({first_line(error)[:160]}); restore it"
        ) from error
    return ids
