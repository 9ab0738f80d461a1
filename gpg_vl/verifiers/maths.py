"""Compares mathematical answers: the kit's exact reader first, math-verify's for what it cannot read.

math-verify loses roots, pi and unspaced tags (``8√3`` is 8 to it, ``65π`` is 65), and can compute for ever on a power
of powers. So it never decides about what ``normalise_quantity`` can read, and never sees anything unbounded.
"""

from __future__ import annotations

import functools
import logging
import re
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from gpg_vl.verifiers.numbers import Quantity, normalise_quantity, same_size

DIGITS = 30  # that must agree

_MAX_EXPRESSION_CHARS = 48
_MAX_EXPRESSION_DIGITS = 18
_MAX_OPERATIONS = 8  # of roots and powers
_MAX_POWERS = 2
_MAX_BRACKETS = 6
# One expression of numbers and nothing else: no commas, words or relations, which would be several answers.
_EXPRESSION = re.compile(
    r"(?:\\(?:frac|dfrac|tfrac|sqrt|pi|times|cdot|div|left|right|,)(?![a-z])|[√π0-9.+\-*/×÷·^(){} ]){1,48}", re.ASCII
)
_LARGE_POWER = re.compile(r"\^\s*\{?\s*[+-]?(?:[0-9]{2}|[^0-9+\-{\s])")
_TWO_NUMBERS = re.compile(r"[0-9.]\s+[0-9.]|\*\*|//")
_ROOT = re.compile(r"√\s*([0-9.]{1,18})")

# What math-verify cannot finish: a power of a power, a power of four digits or more, a factorial of five or more.
# ``**`` is a power after a number only: elsewhere it makes text bold.
_ENDLESS = re.compile(
    r"\^[{(\s-]{0,8}[0-9.]{1,64}[)}\s]{0,8}\^[{(-]{0,8}[0-9]"
    r"|(?<=[0-9)}])\*\*[{(-]{0,8}[0-9.]{1,64}[)}]{0,8}\*\*[{(-]{0,8}[0-9]"
    r"|(?:\^|(?<=[0-9)}])\*\*)[{(-]{0,8}[0-9]{4}|[0-9]{5}[)}]{0,8}!"
)
_MAX_PUBLISHED_CHARS = 65_536


@dataclass(frozen=True, slots=True)
class Expression:
    """A small expression of numbers that ``normalise_quantity`` cannot work out, such as ``3^2`` or ``1/(1+√2)``."""

    text: str


Value = Quantity | Expression | str


def read_value(text: str) -> Value | None:
    """What an answer stands for: a quantity, else a small expression of numbers, else its text; None for nothing.

    >>> str(read_value("8√3 cm")), read_value("3^2"), read_value("x = 3")
    ('8√3', Expression(text='3^2'), 'X=3')
    """
    value = normalise_quantity(text)
    return Expression(text.strip()) if isinstance(value, str) and _is_expression(text.strip()) else value


def same_value(answer: Value, gold: Value) -> bool:
    """Whether two answers stand for the same value: exactly, or to 30 digits where either is an expression.

    >>> same_value(read_value("3^2"), read_value("9 cm")), same_value(read_value("9 cm"), read_value("3^2"))
    (True, True)
    """
    if isinstance(answer, Quantity) and isinstance(gold, Quantity):
        return same_size(answer, gold)
    if answer == gold:
        return True
    if not isinstance(answer, Expression) and not isinstance(gold, Expression):
        return False
    left, right = _work_out(answer), _work_out(gold)
    if left is None or right is None:
        return False
    return bool(abs(left - right) <= max(abs(left), abs(right)) * 10 ** (2 - DIGITS))


def _is_expression(text: str) -> bool:
    """Whether the text is one expression of numbers, small enough to be worked out at once."""
    num_digits = sum(map(str.isdigit, text[:_MAX_EXPRESSION_CHARS]))
    if len(text) > _MAX_EXPRESSION_CHARS or not 0 < num_digits <= _MAX_EXPRESSION_DIGITS:
        return False
    num_roots = text.count("√") + text.count("\\sqrt")
    if text.count("^") > _MAX_POWERS or num_roots + text.count("^") > _MAX_OPERATIONS:
        return False
    if text.count("(") + text.count("{") > _MAX_BRACKETS or _EXPRESSION.fullmatch(text) is None:
        return False
    return not any(pattern.search(text) for pattern in (_LARGE_POWER, _TWO_NUMBERS, _ENDLESS))


def _work_out(value: Value) -> Any | None:
    """The real number to 30 digits; None where there is none."""
    import sympy

    if isinstance(value, str):
        return None
    if isinstance(value, Quantity):
        to_float = functools.partial(sympy.Float, precision=None, dps=DIGITS + 10)  # exact ones could take long
        terms = [
            to_float(factor.numerator)
            / to_float(factor.denominator)
            * sympy.sqrt(to_float(radicand))
            * to_float(sympy.pi) ** power
            for radicand, power, factor in value.terms
        ]
        return sum(terms, to_float(0))
    latex = _ROOT.sub(r"\\sqrt{\1}", value.text).replace("√", "\\sqrt").replace("π", "\\pi ")
    parsed = _parse(f"${latex}$")
    number = parsed[0].evalf(DIGITS) if parsed and isinstance(parsed[0], sympy.Expr) else None
    return number if number is not None and number.is_Float and number.is_finite else None


def published_match(text: str, gold: str) -> bool:
    """``verify(parse(text), parse(gold))`` of math-verify on whole strings, tags and reasoning included: legacy only.

    False for powers of powers, which math-verify cannot finish and gives up on after seconds of wall-clock time. Here
    it has no such limit, so that the result depends on the text alone. Its reading is not linear (a second for 9,000
    hostile characters, a minute for 65,000): whoever reads any text does so under the limit of ``scoring_pool``.
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
