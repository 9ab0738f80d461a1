"""Parses nested lists, objects, numbers and strings as models write them: JSON, Python, or something close to them.

Commas may be missing, doubled or trailing, brackets round or square, quotes single or double. At the outermost level
there may be words between values (the name of an object, the beginning of a sentence) and tags around them. Nothing is
evaluated; the length of the text is bounded and the time linear in it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MAX_DEPTH = 6  # of brackets
MAX_TOKENS = 8_000  # 300 boxes with a name before, a confidence and a label take 7,800

_TOKEN = re.compile(
    r"[ \t\r]*+(?:(?P<space>\n\s{0,256}(?:[0-9]{1,3}[.)][ \t]{1,8}|[-*•][ \t]{1,8})?)"
    r"|(?P<share>[0-9]{1,3}(?:\.[0-9]{1,9})?%)"
    r"|(?P<number>[+-]?(?:[0-9]{1,9}(?:\.[0-9]{0,18})?|\.[0-9]{1,18})(?:[eE][+-]?[0-9]{1,2})?(?![\w.]))"
    r"|(?P<string>\"(?:[^\"\\\n]|\\.){0,4096}\"|'(?:[^'\\\n]|\\.){0,4096}')"
    r"|(?P<word>[^\W\d][\w'-]{0,63})"
    r"|(?P<reference><(?:ref|\|ref\||\|object_ref_start\|)>[^<]{0,256}<(?:/ref|\|/ref\||\|object_ref_end\|)>)"
    r"|(?P<location><loc(?P<digits>[0-9]{4}|_[0-9]{1,4})>)"
    r"|(?P<tag></?[a-z][a-z0-9_]{0,15}>|<\|/?[a-z_]{1,16}\|>)"
    r"|(?P<open>[\[({])|(?P<close>[\])}])|(?P<mark>[,;:、=&.|-])|(?P<other>(?s:.))|\Z)"
)
_FIRST_ITEM = re.compile(r"\s{0,8}[0-9]{1,3}[.)][ \t]{1,8}(?=[^0-9\s])|\s{0,8}[-*•][ \t]{1,8}(?=\S)")
_OPENING_TAGS = {"<box>": "</box>", "<|box_start|>": "<|box_end|>", "<|det|>": "<|/det|>", "<bbox>": "</bbox>"}
_OPENING_TAGS |= {"<bbox_2d>": "</bbox_2d>", "<rect>": "</rect>"}
_CLOSES = {"[": "]", "(": ")", "{": "}"}


_END = ("", "")
MAY_BE_VALUE = re.compile(r"[0-9\[({<]")
"""What a text without it is: words alone."""


class NotLiteralError(Exception):
    """The text is not a list, object, number or string."""


@dataclass(frozen=True, slots=True)
class Word:
    """A bare word, which has no value here: ``true``, ``null``, the name of an object."""

    text: str


@dataclass(frozen=True, slots=True)
class Tagged:
    """What stands between an opening and a closing tag for a box."""

    content: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Literals:
    """The values at the outermost level, the words before, between and in brackets, and those after the last."""

    values: tuple[Any, ...]
    words: tuple[str, ...]
    last_words: tuple[str, ...] = ()


def parse_literals(text: str) -> Literals:
    """Reads the whole text.

    Raises:
        NotLiteralError: it is not such a value, or too long, or nested too deep

    >>> parse_literals("the cat: [1, 2, 30, 40] and {'box': (5, 6, 7, 8,)}").values
    ([1.0, 2.0, 30.0, 40.0], {'box': [5.0, 6.0, 7.0, 8.0]})
    """
    return _LiteralParser(text).read()


def load_json(text: str) -> Any:
    """JSON, also with Python's single quotes; numbers come as floats.

    Raises:
        NotLiteralError: it is not JSON, is nested too deep, or holds a key twice or a number that is not finite
    """
    if _is_too_deep(text):
        raise NotLiteralError
    try:
        return json.loads(
            text if '"' in text else text.replace("'", '"'),
            parse_int=_number,
            parse_float=_number,
            parse_constant=_number,
            object_pairs_hook=_distinct_keys,
        )
    except ValueError as error:
        raise NotLiteralError from error


def _is_too_deep(text: str) -> bool:
    depth = 0
    for bracket in re.finditer(r"[\[{]|[\]}]", text):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > MAX_DEPTH:
            return True
    return False


def _number(literal: str) -> float:
    value = float(literal) if len(literal) <= 32 else math.nan
    if not math.isfinite(value):
        raise ValueError(f"no usable number: {literal[:40]}")
    return value


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entry = dict(pairs)
    if len(entry) < len(pairs):
        raise ValueError("a key stands twice")
    return entry


class _LiteralParser:
    """Reads tokens as it needs them, so that a text that is no literal costs what it takes to see that."""

    def __init__(self, text: str) -> None:
        self.tokens = _tokenize(text)
        self.next = _END
        self._advance()

    def _advance(self) -> None:
        self.next = next(self.tokens, _END)

    def read(self) -> Literals:
        values: list[Any] = []
        words: list[str] = []
        last_words: list[str] = []
        while self.next is not _END:
            kind, text = self.next
            if kind == "word":
                last_words.append(text)
                self._advance()
            elif kind == "string":
                last_words.extend(text[1:-1].split())
                self._advance()
            elif kind == "mark":
                self._advance()
            else:
                value = self._value(1)
                if _is_comment(value):
                    words.extend(word.text for word in value)
                else:
                    values.append(value)
                    words.extend(last_words)
                    last_words = []
        return Literals(tuple(values), tuple(words), tuple(last_words))

    def _take(self) -> tuple[str, str]:
        if self.next is _END:
            raise NotLiteralError
        taken = self.next
        self._advance()
        return taken

    def _value(self, depth: int) -> Any:
        kind, text = self._take()
        if depth > MAX_DEPTH:
            raise NotLiteralError
        if kind == "number":
            return _number(text)
        if kind == "string":
            return text[1:-1]
        if kind == "word":
            return Word(text)
        if kind == "open":
            is_object = text == "{" and self.next[0] != "number"
            return self._object(depth) if is_object else self._list(_CLOSES[text], depth)
        if (kind, text) == ("tag", "<point>"):
            return self._list("</point>", depth)
        if kind == "tag" and text in _OPENING_TAGS:
            return Tagged(tuple(self._list(_OPENING_TAGS[text], depth)))
        raise NotLiteralError

    def _list(self, closing: str, depth: int) -> list[Any]:
        items: list[Any] = []
        while True:
            self._skip_commas()
            if self.next[1] == closing:
                self._advance()
                return items
            items.append(self._value(depth + 1))

    def _object(self, depth: int) -> dict[str, Any]:
        entry: dict[str, Any] = {}
        while True:
            self._skip_commas()
            if self.next[1] == "}":
                self._advance()
                return entry
            kind, key = self._take()
            colon = self._take()[1]
            name = key[1:-1] if kind == "string" else key
            if kind not in ("string", "word") or colon not in (":", "=") or name in entry:
                raise NotLiteralError
            entry[name] = self._value(depth + 1)

    def _skip_commas(self) -> None:
        while self.next[1] in (",", ";", "、"):
            self._advance()


def _is_comment(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, Word) for item in value)


def _tokenize(text: str) -> Iterator[tuple[str, str]]:
    first = _FIRST_ITEM.match(text)
    num_tokens = 0
    for match in _TOKEN.finditer(text, first.end() if first is not None else 0):
        kind = match.lastgroup
        if kind is None or kind == "space" or kind == "reference":
            continue
        if kind == "other" or num_tokens >= MAX_TOKENS:
            raise NotLiteralError
        num_tokens += 1
        if kind == "location" or kind == "digits":
            yield "number", match["digits"].removeprefix("_")
        elif kind == "share":
            yield "string", f"'{match[kind]}'"
        else:
            yield kind, match[kind]
