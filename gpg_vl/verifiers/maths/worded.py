"""Reads numbers in English or Chinese words, and sizes in two units (``2 dm 4 cm``)."""

from __future__ import annotations

import re
from fractions import Fraction

from gpg_vl.verifiers.maths.exact import divide, rational
from gpg_vl.verifiers.maths.expressions import Number
from gpg_vl.verifiers.maths.units import FOOT, MULTIPLES, NO_UNIT, PERCENT, read_unit
from gpg_vl.verifiers.number_words import read_number_words

MAX_WORDED = 80  # characters of a number in words
_PARTS = {
    **dict.fromkeys(("half", "halves"), 2),
    **dict.fromkeys(("quarter", "quarters"), 4),
    **{
        name + plural: number
        for number, name in enumerate(["third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"], 3)
        for plural in ("", "s")
    },
}
_PART_OF_ONE = re.compile(r"(?:(.{1,40}?) and )?(\S.{0,20}?)[ -](\w{4,8})", re.IGNORECASE)
_NUMERAL = r"[零一二三四五六七八九十百千两0-9]{1,12}"
_CHINESE_SHARE = re.compile(rf"(?:({_NUMERAL})又)?({_NUMERAL})分之({_NUMERAL})")
_CHINESE_WHOLE = re.compile(r"([零一二三四五六七八九十百千两]{1,12})([^零一二三四五六七八九十百千两]{1,6})")
_HOMONYMS = ("yuan", "time", "months", *MULTIPLES)
"""Kinds that are not read after a Chinese numeral: 三角 is also a triangle, 三分 three parts, 三时 three o'clock."""
_SIZE = r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s?([^\W\d_]{1,12}\.?)"
_TWO_UNITS = re.compile(rf"{_SIZE},?\s?(?:and\s)?{_SIZE}")
_FEET_AND_INCHES = re.compile(r"([0-9]{1,4})\s?['′]\s?([0-9]{1,2}(?:\.[0-9]{1,4})?)\s?(?:[\"″]|'')")


def read_worded(text: str) -> Number | None:
    """The number that words or two units in a row stand for; None for anything else.

    >>> str(read_worded("three halves")), str(read_worded("三分之二")), read_worded("halves")
    ('3/2', '2/3', None)
    """
    if len(text) > MAX_WORDED:
        return None
    return _in_words(text) or _part_of_one(text) or _chinese(text) or _two_units(text)


def _in_words(text: str) -> Number | None:
    """A whole number in words, with a unit or without: ``thirty degrees``."""
    *words, last = text.split() or [""]
    for number, unit in ((text, NO_UNIT), (" ".join(words), read_unit(last))):
        value = read_number_words(number)
        if value is not None and unit is not None:
            return Number(rational(value), unit)
    return None


def _part_of_one(text: str) -> Number | None:
    """``two thirds``, ``one and a half``: below 1 after a whole number."""
    match = _PART_OF_ONE.fullmatch(text)
    below = _PARTS.get(match[3].lower()) if match is not None else None
    if match is None or below is None:
        return None
    above = 1 if match[2].lower() in ("a", "an") else read_number_words(match[2])
    whole = read_number_words(match[1]) if match[1] else 0
    if above is None or whole is None or (match[1] and not 0 < above < below):
        return None
    return Number(rational(whole + Fraction(above, below)))


def _chinese(text: str) -> Number | None:
    """``三分之二``, ``1又二分之一``, ``百分之五十``, ``三十度``."""
    share = _CHINESE_SHARE.fullmatch(text)
    if share is None:
        match = _CHINESE_WHOLE.fullmatch(text)
        number, unit = (_numeral(match[1]), read_unit(match[2])) if match is not None else (None, None)
        if number is None or unit is None or unit.kind in _HOMONYMS:
            return None
        return Number(rational(number), unit)
    whole, below, above = (_numeral(group or "零") for group in share.groups())
    if share[2] == "百" and above is not None and not share[1]:
        return Number(rational(above), PERCENT)
    if whole is None or not below or above is None or (share[1] and not 0 < above < below):
        return None
    return Number(rational(whole + Fraction(above, below)))


def _numeral(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else read_number_words(text)


def _two_units(text: str) -> Number | None:
    """``2 dm 4 cm``, ``1 h 30 min`` and ``6'2"``: the second less than one of the first, of the same kind."""
    marked = _FEET_AND_INCHES.fullmatch(text)
    if marked is not None and Fraction(marked[2]) < 12:
        return Number(rational(int(marked[1]) + Fraction(marked[2]) / 12), FOOT)
    match = _TWO_UNITS.fullmatch(text)
    large, small = (read_unit(match[2]), read_unit(match[4])) if match is not None else (None, None)
    if match is None or large is None or small is None or large.kind != small.kind or not large.kind:
        return None
    ratio = divide(small.size, large.size).fraction if small.size and large.size else None
    share = Fraction(match[3]) * ratio if ratio is not None else Fraction(0)
    return Number(rational(Fraction(match[1]) + share), large) if 0 < share < 1 else None
