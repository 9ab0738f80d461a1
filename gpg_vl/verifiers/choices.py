"""Reads the answer to a multiple choice, by letter or by text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

MAX_CHARS = 512
LETTERS = "ABCDEFGHIJ"

_LETTER = re.compile(r"\(?([A-Ja-j])(?:\)|\.|:)?\.?")
_LETTERED = re.compile(r"\(?([A-Ja-j])(?:\)|\.|:)\s{1,8}(\S.*)")
_SENTENCE_END = re.compile(r"(\w*)[.?!]\s{1,8}(?=[A-Z])")
_MARKER = re.compile(r"(?<![^\s(])\(?([A-J])(?:\)|\.|:)\s{0,8}")


def normalise_choice(text: str) -> str:
    """The text without case, without runs of white space, without the period, quotes and commas around it."""
    return " ".join(text.split()).strip(" .,;:'\"`").casefold()


def read_choice(answer: str, options: Sequence[str]) -> str | None:
    """The option that the answer is, normalised: its text, its letter, or its letter before its text.

    Without options any text is its own; None for more than 512 characters and for what is no option.

    >>> [read_choice(answer, ["left", "right"]) for answer in ("Right.", "(b)", "B. right", "A. right")]
    ['right', 'right', 'right', None]
    """
    if len(answer) > MAX_CHARS:
        return None
    text, texts = normalise_choice(answer), [normalise_choice(option) for option in options]
    if not options:
        return _bare_letter(answer) or text or None
    if text and texts.count(text) == 1:
        return text
    stripped = answer.strip()
    letter = _LETTER.fullmatch(stripped) or _LETTERED.fullmatch(stripped)
    index = LETTERS.find(letter[1].upper()) if letter else -1
    if letter is None or not 0 <= index < len(texts):
        return None
    agrees = letter.re is _LETTER or normalise_choice(letter[2]) == texts[index]
    return texts[index] if agrees and texts.count(texts[index]) == 1 else None


def _bare_letter(answer: str) -> str | None:
    match = _LETTER.fullmatch(answer.strip())
    return match[1].casefold() if match else None


def find_options(question: str) -> list[str]:
    """The options that a question letters from A on, as ``(A) left (B) right`` or on lines of their own; [] for none.

    >>> find_options("Where is it? Select from: (A) left (B) to the right"), find_options("What is A?")
    (['left', 'to the right'], [])
    """
    markers = list(_MARKER.finditer(question))
    for start, marker in enumerate(markers):
        run = _run_from_a(markers[start:]) if marker[1] == "A" else []
        if len(run) >= 2:
            ends = [following.start() for following in run[1:]] + [len(question)]
            texts = [question[found.end() : end] for found, end in zip(run, ends, strict=True)]
            *first, last = [text.split("\n")[0].strip(" ,;") for text in texts]
            return [*first, last if any(map(_first_sentence_end, first)) else last[: _first_sentence_end(last)]]
    return []


def _first_sentence_end(text: str) -> int | None:
    """Where the first of several sentences ends; capitals of up to three letters (``St. John``) end none."""
    ends = (match for match in _SENTENCE_END.finditer(text) if not (match[1][:1].isupper() and len(match[1]) <= 3))
    return next((match.end(1) for match in ends), None)


def _run_from_a(markers: Sequence[re.Match[str]]) -> list[re.Match[str]]:
    """The markers A, B, C ... in order; one that is out of order ends the run."""
    run: list[re.Match[str]] = []
    for marker in markers[: len(LETTERS)]:
        if marker[1] != LETTERS[len(run)]:
            break
        run.append(marker)
    return run


def row_options(meta: Mapping[str, Any], question: str) -> list[str]:
    """The options of a row: its column ``options`` or ``choices``, a list or JSON text of one; else the lettered ones.

    An object of letters to texts, ``{"A": "left", "B": "right"}``, stands for the list of its texts.

    Raises:
        ValueError: the column holds no list, or its letters are not A, B, C ...
    """
    given = meta.get("options") or meta.get("choices")
    if given is None:
        return find_options(question)
    try:
        content = json.loads(given) if isinstance(given, str) else given
        listed = None if isinstance(content, str) else list(content)
    except (TypeError, ValueError, RecursionError):
        listed = None
    if not listed:
        raise ValueError("the row's options are no list; write the texts of the choices, as [left, right] in JSON")
    if isinstance(content, Mapping):
        by_letter = {str(key).strip(" ().:").upper(): text for key, text in content.items()}
        if sorted(by_letter) != list(LETTERS[: len(content)]):
            raise ValueError("the keys of the row's options are not the letters A, B, C ..., each once")
        listed = [by_letter[letter] for letter in sorted(by_letter)]
    return [str(option) for option in listed]
