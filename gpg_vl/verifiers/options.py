"""Finds the options of a multiple choice: the row's column, or those that the question letters from A on."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gpg_vl.verifiers.unwrap import normalise_glyphs

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_OWN_LETTER = re.compile(r"\s{0,8}(?:[(\[]([A-Za-z])[)\]]|([A-Za-z])[.):、])\s{0,8}(?=\S)")
_BOLD_LETTER = re.compile(r"\*\*([(\[]?[A-Za-z][)\]]?[.:)、]?)\*\*(?=[\s.:)、])")
_SENTENCE_END = re.compile(r"(\w*)[.?!]\s{1,8}(?=[A-Z])")
_LAST_WORD = re.compile(r"[,;、]?\s{0,4}\b(?:or|and)$|[或和,;、]$")
# One letter with its mark, by layout: in brackets, with a mark at the start of a line, with a mark anywhere, bare.
_LAYOUTS = (
    re.compile(r"(?<!\w)[(\[]\s?([A-Z])\s?[)\][]\s{0,8}[.:]?\s{0,8}"),
    re.compile(r"(?<!\w)[(\[]\s?([a-z])\s?[)\]]\s{0,8}[.:]?\s{0,8}"),
    re.compile(r"(?:^|(?<=\n))[ \t]{0,8}([A-Z])(?:[.):、]| -[ \t])[ \t]{0,8}(?=\S)"),
    re.compile(r"(?<!\w)\*\*[(\[]?([A-Z])[)\]]?[.):、]?\*\*[.):、]?\s{0,8}(?=\S)"),
    re.compile(r"(?<![\w<{])[<{]([A-Z])[>}]\s{0,8}(?=[^\s<{])"),
    re.compile(r"(?:^|(?<=\n))[ \t]{0,8}([a-z])[.)、][ \t]{0,8}(?=\S)"),
    re.compile(r"(?<![^\s)°?:。])([A-Z])[.):、]\s{0,8}"),
    re.compile(r"(?:^|(?<=\n))[ \t]{0,8}([A-Z])[ \t]{1,8}(?=\S)"),
)


def without_bold_letter(text: str) -> str:
    """``**B.** right`` as ``B. right``."""
    return _BOLD_LETTER.sub(r"\1", text, count=1) if text.startswith("**") else text


@functools.lru_cache(maxsize=2048)
def find_options(question: str) -> tuple[str, ...]:
    """The options that a question letters from A on, in brackets, with a mark or on lines of their own; () if none.

    Of several runs of letters the last one of the plainest layout counts. Linear in the question's length.

    >>> find_options("Where is it? Select from: (A) left (B) to the right"), find_options("What is A?")
    (('left', 'to the right'), ())
    """
    text = normalise_glyphs(question)
    for layout in _LAYOUTS:
        run = _last_run(layout, text)
        if run:
            return _texts_between(text, run)
    return ()


def _last_run(layout: re.Pattern[str], text: str) -> list[re.Match[str]]:
    """The markers A, B, C ... of the last run of two or more; [] if there is none."""
    last: list[re.Match[str]] = []
    run: list[re.Match[str]] = []
    for marker in layout.finditer(text):
        letter = marker[1].upper()
        if len(run) < len(LETTERS) and run and letter == LETTERS[len(run)]:
            run.append(marker)
        else:
            run = [marker] if letter == "A" else []
        if len(run) >= 2:
            last = run
    return last


def _texts_between(text: str, run: Sequence[re.Match[str]]) -> tuple[str, ...]:
    ends = [following.start() for following in run[1:]] + [len(text)]
    texts = [text[found.end() : end] for found, end in zip(run, ends, strict=True)]
    *first, last = [each.strip().split("\n")[0].strip(" ,;、") for each in texts]
    first = [_LAST_WORD.sub("", each).strip() for each in first]
    whole = last if any(map(_first_sentence_end, first)) else last[: _first_sentence_end(last)]
    return (*first, whole.strip())


def _first_sentence_end(text: str) -> int | None:
    """Where the first of several sentences ends; capitals of up to three letters (``St. John``) do not end one."""
    ends = (match for match in _SENTENCE_END.finditer(text) if not (match[1][:1].isupper() and len(match[1]) <= 3))
    return next((match.end(1) for match in ends), None)


def row_options(meta: Mapping[str, Any], question: str) -> list[str]:
    """The options of a row: its column ``options`` or ``choices``, a list or JSON text of one; else the lettered ones.

    An object of letters to texts, ``{"A": "left", "B": "right"}``, stands for the list of its texts.

    Raises:
        ValueError: the column does not hold a list, or its letters are not A, B, C ...
    """
    given = meta.get("options") or meta.get("choices")
    if given is None:
        return list(find_options(question))
    try:
        content = json.loads(given) if isinstance(given, str) else given
        listed = None if isinstance(content, str) else list(content)
    except (TypeError, ValueError, RecursionError):
        listed = None
    if not listed:
        raise ValueError('the row\'s options are not a list; write the texts of the choices, such as ["left", "right"]')
    if isinstance(content, Mapping):
        by_letter = {str(key).strip(" ().:").upper(): text for key, text in content.items()}
        if sorted(by_letter) != list(LETTERS[: len(content)]):
            raise ValueError("the keys of the row's options are not the letters A, B, C ..., each once")
        listed = [by_letter[letter] for letter in sorted(by_letter)]
    return _without_letters(listed if set(map(type, listed)) == {str} else list(map(_option_text, listed)))


def _option_text(option: Any) -> str:
    if option is None or isinstance(option, list | Mapping):
        raise ValueError("one of the row's options is null, a list or an object; write the text of each")
    return str(option)


def _without_letters(options: list[str]) -> list[str]:
    """The texts of options that each carry their own letter, as ``A. left``; others as they are."""
    if _OWN_LETTER.match(options[0]) is None or not 1 < len(options) <= len(LETTERS):
        return options
    found = [_OWN_LETTER.match(option) for option in options]
    own = [(match[1] or match[2]).upper() if match is not None else "" for match in found]
    texts = [option[match.end() :] for option, match in zip(options, found, strict=True) if match is not None]
    return texts if own == list(LETTERS[: len(options)]) and len(set(texts)) == len(texts) else options
