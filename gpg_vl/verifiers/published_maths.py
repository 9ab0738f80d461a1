"""Compares mathematical answers as the published code does, with math-verify: for the legacy scorers alone.

math-verify decides by what it finds first: ``8√3`` is 8 to it, ``65π`` is 65, and it may never finish a power of
powers. So it never sees what it cannot finish, and no strict scorer asks it.
"""

from __future__ import annotations

import functools
import logging
import re
from types import ModuleType
from typing import Any

# What math-verify cannot finish: a power of a power, a power of four digits or more, a factorial of five or more.
# ``**`` is a power after a number only: elsewhere it makes text bold.
_ENDLESS = re.compile(
    r"\^[{(\s-]{0,8}[0-9.]{1,64}[)}\s]{0,8}\^[{(-]{0,8}[0-9]"
    r"|(?<=[0-9)}])\*\*[{(-]{0,8}[0-9.]{1,64}[)}]{0,8}\*\*[{(-]{0,8}[0-9]"
    r"|(?:\^|(?<=[0-9)}])\*\*)[{(-]{0,8}[0-9]{4}|[0-9]{5}[)}]{0,8}!"
)
_MAX_PUBLISHED_CHARS = 65_536


def published_match(text: str, gold: str) -> bool:
    """``verify(parse(text), parse(gold))`` of math-verify on whole strings, tags and reasoning included: legacy only.

    False for powers of powers, which math-verify cannot finish and gives up on after seconds of wall-clock time. Here
    it has no such limit, so that the result depends on the text alone. Its reading is not linear (a second for 9,000
    hostile characters, a minute for 65,000): whoever reads any text does so under the limits of ``rewards.pool``.
    """
    if any(len(part) > _MAX_PUBLISHED_CHARS or _ENDLESS.search(part) for part in (text, gold)):
        return False
    return _verify(_parse(text), _parse(gold))


def published_candidates(text: str, strings: tuple[str, ...]) -> list[Any]:
    """What math-verify extracts from a text that may name one of the strings: legacy only."""
    from math_verify.parser import ExprExtractionConfig, LatexExtractionConfig, StringExtractionConfig

    if len(text) > _MAX_PUBLISHED_CHARS or _ENDLESS.search(text):
        return []
    return _parse(text, [LatexExtractionConfig(), ExprExtractionConfig(), StringExtractionConfig(strings=strings)])


def _parse(text: str, extraction_config: list[Any] | None = None) -> list[Any]:
    options = {} if extraction_config is None else {"extraction_config": extraction_config}
    return list(_math_verify().parse(text, parsing_timeout=None, **options))


def _verify(left: list[Any], right: list[Any]) -> bool:
    return bool(_math_verify().verify(left, right, timeout_seconds=None))


@functools.cache
def _math_verify() -> ModuleType:
    """The library, imported late for it takes half a second; quiet, for its warnings repeat the whole text."""
    import math_verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    return math_verify
