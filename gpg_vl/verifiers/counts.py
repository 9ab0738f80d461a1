"""Reads how many: one whole number in digits or words, alone, with the things it counts, or at the end of a sum."""

from __future__ import annotations

import functools
import re

from gpg_vl.verifiers.counted import are_names, is_what_is_counted
from gpg_vl.verifiers.number_words import CHINESE_NUMERALS, FORMAL_NUMERALS, NUMBER_WORDS, read_number_words
from gpg_vl.verifiers.sentences import changes_value, readings

MAX_CHARS = 400
MAX_DIGITS = 18
MAX_NUMBERS = 32  # of a breakdown
MAX_TOTALS = 4  # numbers from the end on that may be the total

_INTEGER = re.compile(rf"[+-]?[0-9]{{1,{MAX_DIGITS}}}\.?")
_DIGITS = re.compile(
    rf"([+-]?)([0-9]{{1,3}}(?:(?:,|\{{,\}})[0-9]{{3}}){{1,5}}|[0-9]{{1,{MAX_DIGITS}}})(?:\.0{{1,6}})?(?![0-9])"
)
_LATEX_TEXT = re.compile(r"\\(?:text|textbf|mathrm)\s{0,4}\{([^{}]*)\}|\\[,;:! ]")
_WORDS = "|".join(sorted(NUMBER_WORDS, key=len, reverse=True))
_ENGLISH = re.compile(
    rf"(?:an?\s+(?=hundred|thousand|million))?(?:{_WORDS})\b(?:[\s-]+(?:(?:and\s+)?(?:{_WORDS}))\b)*", re.IGNORECASE
)
_CHINESE = re.compile(f"[{CHINESE_NUMERALS}]{{1,12}}|[{FORMAL_NUMERALS}]{{1,12}}")
_BEGINNING = re.compile(
    r"=\s*(?=\S)|(?:exactly|only|just|(?:(?:in|a|the)\s+)?total(?:\s+of|\s+number\s+of|:|,)?|altogether)[,:]?\s+",
    re.IGNORECASE,
)
_NUMBER_OF = re.compile(
    r"(?:total\s+)?(?:number|count)\s+of\s+((?:[^\W\d_][\w'-]{0,30}\s{1,2}){0,5}[^\W\d_][\w'-]{0,30})\s?[:=]\s{0,4}",
    re.I,
)
_SINGLE = re.compile(r"an?\s+single(?=\s+[^\W\d_])", re.IGNORECASE)
_THOUSANDS = re.compile(r"[0-9],[0-9]")
_NO_ADDING_TEXT = "of or times percent per by to out dozen pairs half not but rather instead"
_NO_ADDING = frozenset(_NO_ADDING_TEXT.split())
_NONE_OF_IT = re.compile(
    r"(?:(?:there\s+(?:are|is)|i\s+(?:can\s+)?see|it\s+has)\s+)?no\s+([^\W\d_][\w' -]{1,80})", re.IGNORECASE
)
_NONE = frozenset(["none", "nothing", "zero"])
_NONE_IN_CHINESE = re.compile(f"(?:没有|无)[^0-9{CHINESE_NUMERALS}\\W]{{0,12}}")
_TOTAL = re.compile(r"(?:=|total|altogether|in all|sum|makes|making|一共|总共|共)[^0-9=]{0,24}$", re.IGNORECASE)
_EARLIER_TOTAL = re.compile(
    rf"=.|(?:[0-9]|\b(?:{_WORDS}))\s{{1,4}}(?:in\s+total|total|altogether|in\s+all)\b", re.I | re.DOTALL
)
_ARITHMETIC = re.compile(r"([0-9]{1,9})\s?([-/÷])\s?([0-9]{1,9})\s?=\s?([0-9]{1,9})")
_ADDS = re.compile(r"(?:[^-*/^%.×÷~]|(?<=[A-Za-z])-(?=[A-Za-z]))*")


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
        in_brackets = text[:1] + text[-1:] in ("()", "[]")
        if in_brackets and _THOUSANDS.search(text):  # could also be a pair or a list
            return None
        bare = text[1:-1].strip() if in_brackets else text
        value = _read_one(_without_beginning(bare))
        if value is not None:
            return value
    return None


def _without_beginning(text: str) -> str:
    if text[:1].isdigit():
        return text
    match = _BEGINNING.match(text) or _NUMBER_OF.match(text)
    if match is None or (match.re is _NUMBER_OF and changes_value(match[1])):
        return text
    return text[match.end() :]


def _read_one(text: str) -> int | None:
    if not text or len(text) > MAX_CHARS or any(char.isdigit() and not char.isascii() for char in text):
        return None
    if "\\" in text:
        text = " ".join(_LATEX_TEXT.sub(r" \1 ", text).split())
    number = _number_at(text, 0) or _single_at(text)
    if number is not None:
        value, end = number
        if is_what_is_counted(value, text[end:]) or _agrees(value, text[end:]):
            return value
    return 0 if _says_none(text) else _last_of_sum(text)


def _says_none(text: str) -> bool:
    if text.casefold() in _NONE or _NONE_IN_CHINESE.fullmatch(text):
        return True
    match = _NONE_OF_IT.fullmatch(text)
    if match is None or changes_value(match[1]):
        return False
    return is_what_is_counted(1 if match[0][:1] in "tT" else 0, f" {match[1]}")


def _number_at(text: str, start: int) -> tuple[int, int] | None:
    """The number that begins there, with its end."""
    match = _DIGITS.match(text, start)
    if match is not None:
        value = int(match[2].replace("{,}", "").replace(",", ""))
        return (-value if match[1] == "-" else value), match.end()
    match = _ENGLISH.match(text, start) or _CHINESE.match(text, start)
    value_of_words = read_number_words(match[0]) if match is not None else None
    return (value_of_words, match.end()) if match is not None and value_of_words is not None else None


def _single_at(text: str) -> tuple[int, int] | None:
    match = _SINGLE.match(text)
    return (1, match.end()) if match is not None else None


def _agrees(value: int, rest: str) -> bool:
    """Whether a comment in brackets says the number again, or is a breakdown into numbers of that sum."""
    before, opening, inner = rest.rpartition("(")
    if not opening or not inner.endswith(")") or not is_what_is_counted(value, before.rstrip()):
        return False
    comment = inner[:-1].strip()
    total = _last_of_sum(comment)
    if total is not None or "=" in comment:  # it names its own sum
        return total == value
    numbers = _numbers_in(comment)
    if not numbers:
        return numbers is not None and (is_what_is_counted(value, f" {comment}") or are_names(comment, value))
    return numbers == [value] or (len(numbers) > 1 and sum(numbers) == value)


def _numbers_in(text: str) -> list[int] | None:
    """Every number of a text; None if something other than adding may be done with them."""
    if _ADDS.fullmatch(text) is None or any(word in _NO_ADDING for word in text.casefold().split()):
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


_NUMBER_STARTS = re.compile(rf"[0-9]|\b(?:{_WORDS})\b|(?!一共)[{CHINESE_NUMERALS}{FORMAL_NUMERALS}]", re.IGNORECASE)


def _last_of_sum(text: str) -> int | None:
    """The total that a breakdown ends in, where the parts add up to it: ``2 red and 2 blue, 4 in total``."""
    difference = _ARITHMETIC.fullmatch(text)
    if difference is not None:
        return _result(*difference.groups())
    starts = [match.start() for match in _NUMBER_STARTS.finditer(text)]
    for start in starts[: -MAX_TOTALS - 1 : -1]:
        number = _number_at(text, start)
        if number is None or not (_TOTAL.search(text, max(0, start - 40), start) or "total" in text[number[1] :]):
            continue
        before = text[:start].rstrip()
        parts = None if _EARLIER_TOTAL.search(before) else _numbers_in(before)
        fits = parts is not None and len(parts) > 1 and sum(parts) == number[0]
        if fits and is_what_is_counted(number[0], text[number[1] :]):
            return number[0]
    return None


def _result(left: str, sign: str, right: str, said: str) -> int | None:
    """The result that is written after a difference or a quotient, if it is right; None if it is not."""
    fits = (
        int(left) - int(right) == int(said) if sign == "-" else int(left) == int(said) * int(right) and int(right) > 0
    )
    return int(said) if fits else None
