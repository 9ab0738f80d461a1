"""Text -> token ids, with a deadline: a pattern in a tokenizer.json may take years on some texts.

What a tokenizer puts in front of a text by itself is asked for apart: a chat template writes it into the prompt.
"""

from __future__ import annotations

from typing import Any

from gpg_vl.errors import ModelMistake, first_line
from gpg_vl.models.inputs.deadline import run_within

MAX_SECONDS = 20.0  # of a processor, for one text
_PROBE = "a"


def read_tokens(tokenizer: Any, text: str, path: str) -> list[int]:
    """The tokens of ``text``, none added.

    Args:
        path: what the message calls the model

    Raises:
        ModelMistake: the tokenizer fails, or takes too long
    """
    return _read(tokenizer, text, path, adds=False)


def read_start(tokenizer: Any, path: str) -> str:
    """What the tokenizer puts in front of every text unless it is told not to: ``<s>``, or nothing.

    Raises:
        ModelMistake: as ``read_tokens``
    """
    whole, bare = (_read(tokenizer, _PROBE, path, adds=adds) for adds in (True, False))
    num = next((n for n in range(len(whole)) if whole[n : n + len(bare)] == bare), 0)
    return "".join(tokenizer.convert_ids_to_tokens(whole[:num]))


def _read(tokenizer: Any, text: str, path: str, *, adds: bool) -> list[int]:
    try:
        ids: list[int] = run_within(MAX_SECONDS, lambda: tokenizer(text, add_special_tokens=adds).input_ids)
    except TimeoutError as error:
        lack = f"takes over {MAX_SECONDS:g} s for one text"
        raise ModelMistake(f"model.path: the tokenizer of {path} {lack}; restore it") from error
    except Exception as error:
        raise ModelMistake(
            f"model.path: the tokenizer of {path} fails ({first_line(error)[:160]}); restore it"
        ) from error
    return ids
