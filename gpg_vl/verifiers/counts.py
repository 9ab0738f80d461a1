"""Reads how many: one whole number in digits or words, alone, with the things it counts, or at the end of a sum."""

from __future__ import annotations

import functools
import re

from gpg_vl.verifiers.number_words import CHINESE_NUMERALS, NUMBER_WORDS, read_number_words
from gpg_vl.verifiers.sentences import changes_value, readings

MAX_CHARS = 400
MAX_DIGITS = 18
MAX_NUMBERS = 32  # of a breakdown

_INTEGER = re.compile(rf"[+-]?[0-9]{{1,{MAX_DIGITS}}}\.?")
_DIGITS = re.compile(
    rf"([+-]?)([0-9]{{1,3}}(?:(?:,|\{{,\}})[0-9]{{3}}){{1,5}}|[0-9]{{1,{MAX_DIGITS}}})(?:\.0{{1,6}})?(?![0-9])"
)
_LATEX_TEXT = re.compile(r"\\(?:text|textbf|mathrm)\s{0,4}\{([^{}]*)\}|\\[,;:! ]")
_WORDS = "|".join(sorted(NUMBER_WORDS, key=len, reverse=True))
_ENGLISH = re.compile(
    rf"(?:an?\s+(?=hundred|thousand|million))?(?:{_WORDS})\b(?:[\s-]+(?:(?:and\s+)?(?:{_WORDS}))\b)*", re.IGNORECASE
)
_CHINESE = re.compile(f"[{CHINESE_NUMERALS}]{{1,12}}")
_BEGINNING = re.compile(
    r"(?:exactly|only|just|(?:in|a|the)\s+total(?:\s+of|\s+number\s+of|:|,)?|altogether)[,:]?\s+", re.IGNORECASE
)
_NOUNS = re.compile(r"(?:[\s-]\s{0,2}[^\W\d_][^\W\d_'-]*,?){1,14}")
_CHINESE_NOUNS = re.compile(r"\s?[\u4e00-\u9fff]{1,12}")
_NOT_ONE_VALUE_TEXT = """
of out to or pairs pair dozens dozens hundreds thousands millions percent per times squared cubed halves quarters
thirds degrees point and/or vs versus by sets groups rows columns
"""
_NOT_ONE_VALUE = frozenset(_NOT_ONE_VALUE_TEXT.split())
_CHINESE_CHANGES = re.compile(f"[半多余或至到倍分之几约不非{CHINESE_NUMERALS}]|以上|以下|左右")
_NONE_OF_IT = re.compile(
    r"(?:(?:there\s+(?:are|is)|i\s+(?:can\s+)?see|it\s+has)\s+)?no\s+([^\W\d_][\w' -]{1,80})", re.IGNORECASE
)
_NONE = frozenset(["none", "zero"])
_NONE_IN_CHINESE = re.compile(f"(?:没有|无)[^0-9{CHINESE_NUMERALS}\\W]{{0,12}}")
_TOTAL = re.compile(r"(?:=|total|altogether|in all|sum|makes|making|一共|总共|共)[^0-9=]{0,24}$", re.IGNORECASE)
_ADDS = re.compile(r"[^-*/^%.×÷~]*")


def read_integer(text: str) -> int | None:
    """A whole number of at most 18 ASCII digits, signed or not; whitespace around and one final period may stand.

    >>> read_integer(" 12. "), read_integer("12 items"), read_integer("1e3")
    (12, None, None)
    """
    stripped = text.strip()
    return int(stripped.removesuffix(".")) if _INTEGER.fullmatch(stripped) else None


def read_count(answer: str) -> int | None:
    """The one whole number that an answer says.

    >>> [read_count(text) for text in ("There are four red cubes.", "2 + 2 = 4", "4个", "4 or 5", "more than 4")]
    [4, 4, 4, None, None]
    """
    if _INTEGER.fullmatch(answer):
        return int(answer.removesuffix("."))
    return _read(answer) if len(answer) <= 2 * MAX_CHARS else None


@functools.lru_cache(maxsize=8192)
def _read(answer: str) -> int | None:
    for text in readings(answer):
        bare = text[1:-1].strip() if text[:1] + text[-1:] in ("()", "[]") else text
        value = _read_one(_BEGINNING.sub("", bare, count=1) if _BEGINNING.match(bare) else bare)
        if value is not None:
            return value
    return None


def _read_one(text: str) -> int | None:
    if not text or len(text) > MAX_CHARS or any(char.isdigit() and not char.isascii() for char in text):
        return None
    if "\\" in text:
        text = " ".join(_LATEX_TEXT.sub(r" \1 ", text).split())
    number = _number_at(text, 0)
    if number is not None:
        value, end = number
        if _is_what_is_counted(text[end:]) or _agrees(value, text[end:]):
            return value
    return 0 if _says_none(text) else _last_of_sum(text)


def _says_none(text: str) -> bool:
    if text.casefold() in _NONE or _NONE_IN_CHINESE.fullmatch(text):
        return True
    match = _NONE_OF_IT.fullmatch(text)
    return match is not None and not changes_value(match[1]) and _is_what_is_counted(f" {match[1]}")


def _number_at(text: str, start: int) -> tuple[int, int] | None:
    """The number that begins there, with its end."""
    match = _DIGITS.match(text, start)
    if match is not None:
        value = int(match[2].replace("{,}", "").replace(",", ""))
        return (-value if match[1] == "-" else value), match.end()
    match = _ENGLISH.match(text, start) or _CHINESE.match(text, start)
    value_of_words = read_number_words(match[0]) if match is not None else None
    return (value_of_words, match.end()) if match is not None and value_of_words is not None else None


def _is_what_is_counted(rest: str) -> bool:
    """Whether a number is followed by nothing, or by words that neither change it nor hold another."""
    if not rest:
        return True
    if _CHINESE_NOUNS.fullmatch(rest):
        return _CHINESE_CHANGES.search(rest) is None
    if _NOUNS.fullmatch(rest) is None or _CHINESE.search(rest):
        return False
    words = rest.casefold().replace(",", " ").replace("-", " ").split()
    return not changes_value(rest) and not any(word in _NOT_ONE_VALUE or word in NUMBER_WORDS for word in words)


def _agrees(value: int, rest: str) -> bool:
    """Whether a comment in brackets says the number again, or is a breakdown into numbers of that sum."""
    before, opening, inner = rest.rpartition("(")
    if not opening or not inner.endswith(")") or not _is_what_is_counted(before.rstrip()):
        return False
    numbers = _numbers_in(inner[:-1])
    if numbers is None or (not numbers and changes_value(inner)):
        return False
    return not numbers or numbers == [value] or (len(numbers) > 1 and sum(numbers) == value)


def _numbers_in(text: str) -> list[int] | None:
    """Every number of a text; None where something but adding may be done with them."""
    if _ADDS.fullmatch(text) is None or any(word in _NOT_ONE_VALUE for word in text.casefold().split()):
        return None
    found: list[int] = []
    position = 0
    for start in _NUMBER_STARTS.finditer(text):
        if start.start() < position:
            continue
        number = _number_at(text, start.start())
        if number is None or len(found) == MAX_NUMBERS:
            return None
        found.append(number[0])
        position = number[1]
    return found


_NUMBER_STARTS = re.compile(rf"[0-9]|\b(?:{_WORDS})\b|[{CHINESE_NUMERALS}]", re.IGNORECASE)


def _last_of_sum(text: str) -> int | None:
    """The total that a breakdown ends in, where the parts add up to it: ``2 red and 2 blue, 4 in total``."""
    starts = [match.start() for match in _NUMBER_STARTS.finditer(text)]
    for start in reversed(starts):
        number = _number_at(text, start)
        if number is None or not (_TOTAL.search(text[:start]) or "total" in text[number[1] :]):
            continue
        parts = _numbers_in(text[:start])
        fits = parts is not None and len(parts) > 1 and sum(parts) == number[0]
        if fits and _is_what_is_counted(text[number[1] :]):
            return number[0]
    return None
