"""Whole numbers in words, English and Chinese: ``twenty-one``, ``one hundred and five``, ``四十二``."""

from __future__ import annotations

import re

_ONES_TEXT = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen
"""
_TENS_TEXT = "twenty thirty forty fifty sixty seventy eighty ninety"
_ONES = {word: value for value, word in enumerate(_ONES_TEXT.split())}
_TENS = {word: 10 * value for value, word in enumerate(_TENS_TEXT.split(), 2)}
_SCALES = {"thousand": 1000, "million": 10**6}
NUMBER_WORDS = frozenset([*_ONES, *_TENS, *_SCALES, "hundred"])
MAX_WORDS = 16

_CHINESE_DIGITS = {**{char: value for value, char in enumerate("零一二三四五六七八九")}, "〇": 0, "两": 2}
_CHINESE_UNITS = {"十": 10, "百": 100, "千": 1000}
CHINESE_NUMERALS = "零〇一二两三四五六七八九十百千万"
FORMAL_NUMERALS = "零壹贰叁肆伍陆柒捌玖拾佰仟萬貳參陸"
"""As on cheques; some are words too (陆, land), so they count only where a whole number is written in them."""
_PLAIN = str.maketrans(FORMAL_NUMERALS, "零一二三四五六七八九十百千万二三六")
_CHINESE = re.compile(f"[{CHINESE_NUMERALS}]{{1,12}}")
_FORMAL = re.compile(f"[{FORMAL_NUMERALS}]{{1,12}}")


def read_number_words(text: str) -> int | None:
    """The whole number that the words are; None where they are anything else.

    >>> [read_number_words(text) for text in ("One hundred and twenty-one", "twelve hundred", "two three", "十二")]
    [121, 1200, None, 12]
    """
    if _CHINESE.fullmatch(text):
        return _read_chinese(text)
    if _FORMAL.fullmatch(text):
        return _read_chinese(text.translate(_PLAIN))
    words = text.casefold().replace("-", " ").split()
    if not 0 < len(words) <= MAX_WORDS:
        return None
    return _read_english(words)


def _read_english(words: list[str]) -> int | None:
    if words[0] in ("a", "an") and len(words) > 1:
        words = ["one", *words[1:]]
    total = group = 0
    limit, scale = 1000, 10**9  # what the next word must be smaller than
    for number, word in enumerate(words):
        value = _ONES.get(word, _TENS.get(word))
        if word == "and" and 0 < number < len(words) - 1 and words[number - 1] in ("hundred", *_SCALES):
            continue
        if value is not None and value < limit and (value or len(words) == 1):
            group += value
            limit = 10 if word in _TENS else 1
        elif word == "hundred" and (0 < group < 10 or (not total and 10 < group < 100 and group % 10)):
            scale = scale if group < 10 else 0  # twelve hundred, and no thousand after it
            group, limit = group * 100, 100
        elif word in _SCALES and group > 0 and _SCALES[word] < scale:
            total, group, limit, scale = total + group * _SCALES[word], 0, 1000, _SCALES[word]
        else:
            return None
    return total + group


def _read_chinese(text: str) -> int | None:
    """Digits before units of falling size; ``十二`` is 12."""
    if len(text) > 1 and not any(char in _CHINESE_UNITS or char == "万" for char in text):
        return None
    if "万" in text:
        high, _, low = text.partition("万")
        left, right = _read_chinese(high) if high else None, _read_chinese(low) if low else 0
        return None if left is None or right is None or "万" in low else left * 10_000 + right
    total, digit, largest = 0, None, 10_000
    for char in text:
        if char in _CHINESE_UNITS:
            unit = _CHINESE_UNITS[char]
            if unit >= largest or digit == 0:
                return None
            total, digit, largest = total + (1 if digit is None else digit) * unit, None, unit
        elif digit is None or digit == 0:
            digit = _CHINESE_DIGITS[char]
        else:
            return None
    return total + (digit or 0)
