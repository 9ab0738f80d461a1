r"""Reads what a geometry answer stands for.

A value is a number with its unit or without, a list of numbers (a point, an interval, several solutions), a choice's
letter, or a text that is none of these. A text that could be two values has none.
"""

from __future__ import annotations

import functools
import re
from fractions import Fraction

from gpg_vl.verifiers.maths import exact
from gpg_vl.verifiers.maths.decimals import Literal, is_rounded_from
from gpg_vl.verifiers.maths.exact import PI, UnreadableError, divide, rational, require, symbols_of
from gpg_vl.verifiers.maths.expressions import GREEK, PRODUCT, SYMBOLS_AFTER_NUMBERS, Number, read_expression
from gpg_vl.verifiers.maths.same_values import Items, Letter, Text, TwoReadings, Value, same_number
from gpg_vl.verifiers.maths.sines import FUNCTIONS
from gpg_vl.verifiers.maths.tokens import MAX_CHARS, clean
from gpg_vl.verifiers.maths.units import DEGREE, NO_UNIT, agree, read_unit
from gpg_vl.verifiers.maths.worded import read_worded
from gpg_vl.verifiers.number_words import NUMBER_WORDS
from gpg_vl.verifiers.options import without_bold_letter
from gpg_vl.verifiers.sentences import changes_value, is_in_doubt, readings
from gpg_vl.verifiers.unwrap import unwrap

MAX_ITEMS = 16


_QUANTITY = re.compile(r"(-?[0-9]{1,8})(?:\.([0-9]{1,8}))?\s?([^\s0-9.,!-/:;<-?].{0,16})?")
_PLAIN = re.compile(r"-?[0-9]{1,15}")
_LETTER = re.compile(
    r"[(\[]?\s?([A-Za-z])\s?[)\]]?[.)、:]?|(?:option|choice)\s{1,2}[(\[]?([A-Za-z])[)\]]?|([A-Z])选?项", re.IGNORECASE
)
_LETTERED = re.compile(
    r"(?:(?:option|choice)\s{1,2})?(?:[(\[]\s?([A-Z])\s?[)\]]\s{0,3}[.:]?|([A-Z])\s?[.:)、,]|([A-Z])\s-)\s{0,3}(\S.*)",
    re.DOTALL,
)
_LETTER_LAST = re.compile(r"(\S.{0,60})\s{1,3}[(\[]\s?([A-Z])\s?[)\]]")
_TERM = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
_DEGREE = r"\s?(?:°|\^\s?\{?\s?\\circ\s?\}?|\\degree)"
_SUM_OF_ANGLES = re.compile(rf"{_TERM}{_DEGREE}(?:\s?[-+]\s?{_TERM}{_DEGREE}){{1,4}}|{_TERM}{_DEGREE}\s?[/÷]\s?{_TERM}")
_THOUSANDS = re.compile(r"[+-]?[0-9]{1,3}(?:,[0-9]{3})+")
_NOT_FINITE = frozenset(["NAN", "INF", "INFINITY", "\\INFTY", "∞"])
_COMMENT = re.compile(r"(.*\S)\s{1,3}\(([^()\d]{4,200})\)", re.DOTALL)
_AGAIN = re.compile(
    r"(.{0,80}\S)\s{1,3}\(\s?(-?[0-9]{1,9}(?:\.[0-9]{1,18}|/[0-9]{1,9})?(?:\s?[^\s0-9()].{0,20})?)\s?\)", re.DOTALL
)
_ABOUT_THAT = re.compile(
    r"(.{0,80}\S)\s{1,3}\(\s?(?:≈|\\approx|approx\.?|approximately|about)\s?(-?[0-9]{1,9}\.[0-9]{1,9}[^()]{0,20})\)",
    re.DOTALL,
)
_AND_OR = re.compile(r"\s(?:or|and)\s|\\text\s?\{\s?(?:or|and)\s?\}|[或和与]")
_OR = re.compile(r"\sor\s|\{\s?or\s?\}|或")
_NAME = re.compile(
    r"(?:\\(?:angle|measuredangle|triangle|overline|widehat|odot|therefore|text|mathrm|sin|cos|tan|alpha|beta|gamma|delta"
    r"|theta|phi|omega)(?![a-z])|\|[A-Z]{2}\||[∠△▱⊙∴A-Za-zα-ωΑ-Ω'′_{}() 0-9\u4e00-\u9fff])+"
)
_POINT = re.compile(
    r"\(\s?[a-z]\s?,\s?[a-z]\s?\)\s?=\s?(?=\()|[a-z]\s?(?:∈|\\in(?![a-z]))\s?(?=[(\[])"
    r"|(?:(?:[Tt]he )?(?:[Pp]oint|vertex|cent(?:er|re)|midpoint) )?(?:[A-Z]'?\s?(?:=\s?)?)?(?=\()"
)
_SYMBOL = re.compile(r"[A-Za-zα-ω]")
_NAMED = re.compile(r"(?:.*(?:\b(?:is|are|get|have)\s|[是为得]))?\s?([A-Za-zα-ω])")
_RATIO = re.compile(r"(.{1,60}?)\s?:\s?(.{1,60}?)(?:\s?:\s?(.{1,60}))?|([0-9.]{1,18}) (?:is )?to ([0-9.]{1,18})")
_RELATION = re.compile(r"<=|>=|\\leqslant|\\geqslant|\\leq?(?![a-z])|\\geq?(?![a-z])|\\lt|\\gt|[<>≤≥⩽⩾]")
_MONEY = re.compile(r"(US\$|[$€£¥￥])\s?([0-9]{1,3}(?:,[0-9]{3}){0,4}(?:\.[0-9]{1,2})?|[0-9]{1,15}(?:\.[0-9]{1,2})?)")
_PROSE = re.compile(r"([A-Za-z]{2,})[A-Za-z0-9 '.-]*")
FIRST_WORDS = NUMBER_WORDS | FUNCTIONS | GREEK.keys() | {"an", "minus", "negative", "pi", "sqrt", "frac", "infinity"}
_ENDS_OF_SYMBOLS = ("root", "cube", "square", "the")
_ABOUT = re.compile(r"\\approx|≈|≒|≅")


def read_value(text: str) -> Value | None:
    r"""What an answer stands for; None for the empty text, for more than 512 characters, and for infinity and NaN.

    >>> value, other = read_value("x = 30°"), read_value(r"$30^\circ$")
    >>> isinstance(value, Number) and isinstance(other, Number) and same_number(value, other)
    True
    """
    if _PLAIN.fullmatch(text):
        return Number(rational(int(text)))
    return _read(text) if len(text) <= 2 * MAX_CHARS else None


@functools.lru_cache(maxsize=8192)
def read_number(text: str) -> Number | Items | TwoReadings | None:
    """The number or numbers that an unwrapped text is, without label, letter or comment; None for none."""
    return _read_numbers(text) if len(text) <= MAX_CHARS else None


@functools.lru_cache(maxsize=8192)
def _read(answer: str) -> Value | None:
    return _read_quantity(answer) or _read_sentence(answer)


def _read_quantity(text: str) -> Number | None:
    """A number of few digits with a unit or without, as most answers are: what the grammar reads too, sooner."""
    match = _QUANTITY.fullmatch(text)
    unit = read_unit(match[3] or "") if match is not None else None
    if match is None or unit is None or match[3] in SYMBOLS_AFTER_NUMBERS:
        return None
    places = match[2] or ""
    value = rational(Fraction(int(match[1] + places), 10 ** len(places)))
    return Number(value, unit, Literal(value.fraction or Fraction(0), len(places)) if places else None)


def _read_sentence(answer: str) -> Value | None:
    whole = None
    for text in readings(answer):
        whole = text if whole is None else whole
        if len(whole) > MAX_CHARS:
            return None
        value = _read_one(text)
        if value is not None:
            return value
    return _plain_text(whole or "")


def _read_one(text: str) -> Value | None:
    letter = _read_letter(text)
    if letter is not None:
        return letter
    value = _read_numbers(text)
    comment = _COMMENT.fullmatch(text) if value is None else None
    if comment is not None and comment[2][:1].isalpha() and not is_in_doubt(comment[2]):
        return _read_numbers(unwrap(comment[1]))
    return value


def _read_letter(text: str) -> Letter | None:
    """A letter, bare or bracketed or marked, alone or before the text of its choice."""
    if len(text) <= 12:
        match = _LETTER.fullmatch(text)
        if match is not None:
            return Letter((match[1] or match[2] or match[3]).upper())
    last = _LETTER_LAST.fullmatch(text) if text[-1:] in (")", "]") else None
    if last is not None and any(map(str.isdigit, last[1])):
        content = _read_numbers(unwrap(last[1]))
        return Letter(last[2], content) if content is not None else None
    match = _LETTERED.fullmatch(without_bold_letter(text))
    if match is None:
        return None
    text_of_choice = unwrap(match[4])
    content = None if _LETTER.fullmatch(text_of_choice) else _read_numbers(text_of_choice)
    return Letter(match[1] or match[2] or match[3], content) if content is not None else None


def _plain_text(text: str) -> Value | None:
    word = "".join(text.split()).upper()
    bare = word.strip("(){}.[]$")
    if word.lstrip("+-") in _NOT_FINITE or not bare:
        return None
    return Text(word)


def _read_numbers(text: str) -> Number | Items | TwoReadings | None:
    return None if _is_prose(text) else _read_in_full(text)


def _is_prose(text: str) -> bool:
    """Whether a text begins with a word that no number begins with: most are told at once, ``_read_in_full`` tells all.

    An expression begins with a number, a sign, a symbol or a function; a number in words with one of them. What ends in
    ``root`` may be a root without a space before it.
    """
    match = _PROSE.fullmatch(text)
    word = match[1].lower() if match is not None else ""
    may_begin = word in FIRST_WORDS or word.endswith(_ENDS_OF_SYMBOLS) or PRODUCT.fullmatch(word) is not None
    return bool(word) and not may_begin


def _read_in_full(text: str) -> Number | Items | TwoReadings | None:
    if text.endswith(")"):
        said_again = _said_again(text)
        if said_again is not None:
            return said_again
    money = _MONEY.fullmatch(text)
    if money is not None:
        return Number(rational(Fraction(money[2].replace(",", ""))), read_unit(money[1]) or NO_UNIT)
    try:
        cleaned = clean(text)
        require(cleaned)
        found = _number_or_items(cleaned)
    except UnreadableError:
        return read_worded(text)
    return None if isinstance(found, Number) and "∞" in symbols_of(found.value) else found


def _said_again(text: str) -> Number | None:
    """``3/2 (1.5)``: a number other than a plain whole one, and in brackets the same number in another spelling."""
    match = _AGAIN.fullmatch(text)
    if match is None:
        about = _ABOUT_THAT.fullmatch(text)
        found = _read_numbers(f"{about[1]} ≈ {about[2]}") if about is not None else None
        return found if isinstance(found, Number) else None
    if match[1].isdigit() or match[1] == match[2]:
        return None
    first, second = _read_numbers(match[1]), _read_numbers(match[2])
    if not isinstance(first, Number) or not isinstance(second, Number) or not same_number(first, second):
        return None
    return first if first.unit.kind else second if second.unit.kind else first


def _number_or_items(text: str) -> Number | Items | TwoReadings:
    bracketed = _bracketed(text)
    if bracketed is not None:
        return bracketed
    relation = _RELATION.search(text)
    if relation is not None:
        return _interval(text)
    if _THOUSANDS.fullmatch(text):
        return TwoReadings(read_expression(text), Items("", "", tuple(map(_whole_number, text.split(",")))))
    try:
        return _equation(text)
    except UnreadableError:
        return _listed(text)


def _whole_number(text: str) -> Number:
    return Number(rational(int(text)))


def _bracketed(text: str) -> Items | None:
    """A point, an interval or a set: one pair of brackets around several numbers."""
    point = _POINT.match(text)
    if point is not None:
        text = text[point.end() :]
    if text[0] not in "([{" or text[-1] not in ")]}" or ("," not in text and ";" not in text):
        return None
    parts = _split_top_level(text[1:-1])
    if parts is None or len(parts) < 2:
        return None
    numbers = tuple(_named(part) for part in parts)
    is_set = text[0] == "{"
    return Items("" if is_set else text[0], "" if is_set else text[-1], numbers, is_set)


def _split_top_level(text: str) -> list[str] | None:
    """The parts between commas and semicolons outside of any brackets; None where brackets do not match or many."""
    parts, depth, start = [], 0, 0
    for position, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if depth < 0:
            return None
        if char in ",;" and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    parts.append(text[start:])
    return parts if depth == 0 and len(parts) <= MAX_ITEMS else None


def _listed(text: str) -> Items | Number:
    """Several numbers without brackets: after commas, ``or`` or ``and``; or the two of a ``±``.

    Two spellings of one number, with ``or`` between them, are that number.
    """
    if text.count("±") + text.count("\\pm") == 1:
        sides = [text.replace("\\pm", "±").replace("±", sign) for sign in ("+", "-")]
        return Items("", "", tuple(map(_named, sides)), in_any_order=True)
    in_any_order = _OR.search(text) is not None
    parts = _split_top_level(_AND_OR.sub(",", text))
    require(parts is not None and len(parts) > 1)
    numbers = tuple(_named(part) for part in parts or [])
    if in_any_order and len(numbers) == 2 and same_number(*numbers):
        return numbers[1]
    return Items("", "", numbers, in_any_order)


def _named(text: str) -> Number:
    found = _equation(text.strip())
    require(isinstance(found, Number))
    return found


def _equation(text: str) -> Number:
    """``name = value``, or several expressions of one value; ``≈`` may give its decimals at the end."""
    exact_text, *roundings = _ABOUT.split(text)
    require(len(roundings) <= 1)
    *sides, last = exact_text.split("=")
    require(len(sides) <= 3)
    names = []
    while sides and _is_name(sides[0].strip()):
        names.append(sides.pop(0).strip())
    name = names[0] if len(names) == 1 else ""
    if not names and len(sides) == 1 and not sides[0].strip():
        sides.pop()
    numbers = [_ratio_or_number(side.strip()) for side in (*sides, last)]
    require(all(same_number(number, numbers[-1]) for number in numbers[:-1]))
    found = numbers[-1] if numbers[-1].unit.kind else numbers[0]
    if roundings:
        found = _with_rounding(found, roundings[0].strip())
    symbol = _NAMED.fullmatch(name)
    return Number(found.value, found.unit, found.literal, symbol[1] if symbol is not None else "")


def _is_name(text: str) -> bool:
    """Whether the left side of an equation only says what is asked for: ``x``, ``AB``, ``∠BAC``, ``f(x)``."""
    if not 0 < len(text) <= 60 or text[0].isdigit() or _NAME.fullmatch(text) is None:
        return False
    return not changes_value(text)


def _with_rounding(number: Number, text: str) -> Number:
    """The number, where the text is its value rounded; two values otherwise."""
    rounded = read_expression(text)
    digits = rounded.literal
    require(digits is not None and agree(number.unit, rounded.unit))
    assert digits is not None
    require(is_rounded_from(digits, number.value, fewest_digits=1))
    return Number(number.value, number.unit if number.unit.kind else rounded.unit)


def _ratio_or_number(text: str) -> Number:
    """A number, or the value of a ratio of two; one of three is a product of powers that no other value has."""
    if len(text) > 3 and text[0].isdigit() and _SUM_OF_ANGLES.fullmatch(text):
        return Number(read_expression(re.sub(_DEGREE, "", text)).value, DEGREE)
    match = _RATIO.fullmatch(text) if ":" in text or " to " in text else None
    if match is None:
        return read_expression(text)
    first, second, *rest = [read_expression(part) for part in match.groups() if part]
    ratio = divide(first.value, second.value)
    if rest:
        second_share, third_share = (
            exact.multiply(exact.symbol(f"{n}:"), divide(each.value, first.value))
            for n, each in enumerate((second, *rest))
        )
        return Number(exact.add(second_share, third_share))
    require(first.unit == second.unit)
    return Number(ratio)


def _interval(text: str) -> Items:
    """``0 < x ≤ 5`` is ``(0, 5]``, and ``x > 3`` is ``(3, ∞)``."""
    sides = [side.strip() for side in _RELATION.split(text)]
    signs = _RELATION.findall(text)
    downward = [sign in (">", ">=", "≥", "⩾") or sign.startswith("\\g") for sign in signs]
    require(len(sides) <= 3 and len(set(downward)) == 1)
    if downward[0]:
        sides, signs = sides[::-1], signs[::-1]
    strict = [sign in ("<", ">", "\\lt", "\\gt") for sign in signs]
    if len(sides) == 2:
        below_symbol = _SYMBOL.fullmatch(sides[0]) is not None
        sides = ["-∞", *sides] if below_symbol else [*sides, "∞"]
        strict = [True, *strict] if below_symbol else [*strict, True]
    require(_SYMBOL.fullmatch(sides[1]))
    low, high = read_expression(sides[0]), read_expression(sides[2])
    require(symbols_of(low.value) | symbols_of(high.value) <= {PI, "∞"})
    return Items("(" if strict[0] else "[", ")" if strict[1] else "]", (low, high))
