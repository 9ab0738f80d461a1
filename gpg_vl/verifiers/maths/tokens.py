r"""Cuts mathematical text, LaTeX or plain, into tokens: numbers, words and signs."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from gpg_vl.verifiers.maths.decimals import Literal
from gpg_vl.verifiers.maths.exact import UnreadableError, require

MAX_CHARS = 512
MAX_DIGITS = 40  # of one number

_WORDED = re.compile(
    r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mathit|operatorname|mbox|rm|boxed)\s{0,4}\{([^{}]+)\}"
)
_OVER = re.compile(r"\{([^{}]{1,60})\\over(?![a-z])([^{}]{1,60})\}")
_DELIMITERS = re.compile(
    r"\\(?:left|right|displaystyle|quad|qquad|mathrm|rm|text|big|Big)(?![a-z])|\\[,;:!> ]"
    r"|(?<=[\w})°])~+(?=\s?[\\A-Za-z\u4e00-\u9fff(])|\\\(|\\\)|\\\\"
)
_DOLLARS = re.compile(r"(\$\$?)([^$]+)\1")
_SQUARE_ROOT = re.compile(r"(?:the )?(?:square )?root(?: of)?(?= |\d|\()", re.IGNORECASE)
_PHRASES = (
    (re.compile(r"(?:the )?cube root of ", re.IGNORECASE), "∛"),
    (_SQUARE_ROOT, "√"),
    (re.compile(r"(?<=[\w)]) (?:times|multiplied by) (?=[\w(√∛])", re.IGNORECASE), "*"),
    (re.compile(r"(?<=[\w)]) (?:over|divided by) (?=[\w(√∛])", re.IGNORECASE), "/"),
    (re.compile(r"(?<=[\w)]) plus (?=[\w(√∛])", re.IGNORECASE), "+"),
    (re.compile(r"(?<=[\w)]) minus (?=[\w(√∛])", re.IGNORECASE), "-"),
    (re.compile(r"^(?:minus|negative) (?=[0-9√π(])", re.IGNORECASE), "-"),
    (re.compile(r"(?<=[0-9)]) squared$", re.IGNORECASE), "^2"),
    (re.compile(r"(?<=[0-9)]) cubed$", re.IGNORECASE), "^3"),
)
_CHINESE = (
    (re.compile(r"百分之([0-9.]{1,20})"), r"\1%"),
    (re.compile(r"([0-9]{1,18})分之([0-9]{1,18})"), r"\2/\1"),
    (re.compile("倍?根号"), "√"),
    (re.compile(r"(?<=[0-9])\s?比\s?(?=[0-9])"), ":"),
    (re.compile(r"^负(?=[0-9√π])"), "-"),
    (re.compile(r"(?<=[0-9])又(?=[0-9\\])"), " "),
)
_SIGNS = {
    **dict.fromkeys(("\\times", "\\cdot", "×", "·", "⋅", "∙", "•", "\\ast", "∗"), "*"),
    **dict.fromkeys(("\\div", "÷", "⁄", "∕"), "/"),
    **dict.fromkeys(("\\sqrt", "sqrt", "\\surd"), "√"),
    **dict.fromkeys(("\\dfrac", "\\tfrac", "\\cfrac", "\\frac", "frac"), "\\frac"),
    **dict.fromkeys(("\\circ", "\\degree", "\\textdegree", "º", "˚", "∘", "°", "゜"), "°"),
    **dict.fromkeys(("′", "\\prime", "’", "‘"), "'"),
    **dict.fromkeys(("″", "”", "“"), '"'),
    **dict.fromkeys(("\\pi", "pi", "PI", "Pi", "Π"), "π"),
    **dict.fromkeys(("\\infty", "infinity"), "∞"),
    "**": "^",
    "\\%": "%",
    "\\{": "{",
    "\\}": "}",
    "−": "-",
}
_BLOCK = r"(?:\\overline\{\d{1,20}\}|(?:\\dot\{?\d\}?){1,2}|\(\d{1,20}\)|(?:…|\.\.\.|\\[lc]?dots|⋯))"
_WHOLE = r"(?:\d{1,3}(?:(?:,|\{,\})\d{3})+|\d{1,3}(?:[ \u2009\u202f]\d{3})+|\d{1,64})"
_NUMBER = (
    rf"(?P<repeat>\d{{0,40}}\.\d{{0,40}}{_BLOCK})"
    rf"|(?P<number>{_WHOLE}(?![\d,](?=\d))(?:\.\d{{1,64}})?(?!\d)|\.\d{{1,64}}(?!\d))"
)
_TOKEN = re.compile(
    rf"(?P<space>\s+)|{_NUMBER}|(?P<vulgar>[½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞])|(?P<raised>[⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)"
    r"|(?P<command>\\[A-Za-z]+|\\[%{}])|(?P<word>[A-Za-z]+|[\u4e00-\u9fff]+|[α-ωΑ-Ω])|(?P<sign>\*\*|[^\s\\])",
    re.ASCII,
)
_EXPONENT = re.compile(r"[eE]([+-]?\d{1,3})(?![\d.A-Za-z])", re.ASCII)
_VULGAR_TEXT = "½ 1/2 ⅓ 1/3 ⅔ 2/3 ¼ 1/4 ¾ 3/4 ⅕ 1/5 ⅖ 2/5 ⅗ 3/5 ⅘ 4/5 ⅙ 1/6 ⅚ 5/6 ⅛ 1/8 ⅜ 3/8 ⅝ 5/8 ⅞ 7/8"
_VULGAR = dict(zip(_VULGAR_TEXT.split()[::2], map(Fraction, _VULGAR_TEXT.split()[1::2]), strict=True))
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")


class Token(NamedTuple):
    """``kind`` is number, vulgar, raised, word or sign; ``sign`` tokens and known commands carry their one spelling."""

    kind: str
    text: str
    start: int  # in the text
    value: Fraction | None = None
    literal: Literal | None = None  # of a decimal
    spaced: bool = False  # white space stands before it


def clean(text: str) -> str:
    """The text without what LaTeX needs for its looks alone, and with the words of arithmetic as signs."""
    if "\\" in text or "$" in text or "~" in text:
        text = _OVER.sub(r"\\frac{\1}{\2}", text) if "\\over" in text else text
        text = _WORDED.sub(r" \1 ", text)
        text = _DELIMITERS.sub(" ", _DOLLARS.sub(r" \2 ", text) if "$" in text else text)
    if any("\u4e00" <= char <= "\u9fff" for char in text):
        for pattern, sign in _CHINESE:
            text = pattern.sub(sign, text)
    elif " " in text and text.isascii() is not None and _has_word(text):
        for pattern, sign in _PHRASES:
            text = pattern.sub(sign, text)
    return text.strip()


_LONG_WORD = re.compile(r"[A-Za-z]{4}")


def _has_word(text: str) -> bool:
    return _LONG_WORD.search(text) is not None


def tokenize(text: str) -> list[Token]:
    """The tokens of cleaned text.

    Raises:
        UnreadableError: a number is too long, or a character does not belong to mathematics
    """
    require(len(text) <= MAX_CHARS)
    tokens, position, spaced = [], 0, False
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise UnreadableError
        end = match.end()
        if match.lastgroup == "space":
            spaced = True
        else:
            token, end = _make(match, text, spaced)
            tokens.append(token)
            spaced = False
        position = end
    return tokens


def _make(match: re.Match[str], text: str, spaced: bool) -> tuple[Token, int]:
    kind, found, start, end = match.lastgroup or "", match[0], match.start(), match.end()
    if kind == "number":
        return _number(found, text, start, end, spaced)
    if kind == "repeat":
        return Token("number", found, start, _repeating(found), None, spaced), end
    if kind == "vulgar":
        return Token("vulgar", found, start, _VULGAR[found], None, spaced), end
    if kind == "raised":
        return Token("raised", found, start, Fraction(found.translate(_RAISED)), None, spaced), end
    sign = _SIGNS.get(found)
    if sign is not None:
        return Token("sign", sign, start, None, None, spaced), end
    return Token("word" if kind in ("word", "command") else "sign", found, start, None, None, spaced), end


def _number(found: str, text: str, start: int, end: int, spaced: bool) -> tuple[Token, int]:
    digits = found.replace("{,}", "").replace(",", "")
    digits = digits if digits.isascii() and " " not in digits else "".join(digits.split())
    require(len(digits) <= MAX_DIGITS)
    whole, point, places = digits.partition(".")
    value = Fraction(int(whole + places), 10 ** len(places)) if point else Fraction(int(whole))
    exponent = _EXPONENT.match(text, end)
    if exponent is not None:
        require(abs(int(exponent[1])) <= 60)
        return Token("number", found, start, value * Fraction(10) ** int(exponent[1]), None, spaced), exponent.end()
    literal = Literal(value, len(places)) if point else None
    return Token("number", found, start, value, literal, spaced), end


_REPEAT = re.compile(
    r"(\d*)\.(\d*?)(?:\\overline\{(\d+)\}|\((\d+)\)|\\dot\{?(\d)\}?(?:(\d*)\\dot\{?(\d)\}?)?)", re.ASCII
)


def _repeating(text: str) -> Fraction:
    """``0.1\\overline{6}``, ``0.1(6)``, ``0.1\\dot{6}`` and ``0.166...`` are 1/6."""
    match = _REPEAT.fullmatch(text)
    if match is not None:
        block = match[3] or match[4] or match[5] + (match[6] or "") + (match[7] or "")
        return _repeat(match[1], match[2], block)
    whole, _, places = text.rstrip("….⋯\\lcdots").partition(".")
    block = _trailing_block(places)
    require(block)
    return _repeat(whole, places, block)


def _trailing_block(places: str) -> str:
    """The shortest run of digits with which the places end at least twice."""
    for length in range(1, len(places) // 2 + 1):
        if places[-length:] == places[-2 * length : -length]:
            return places[-length:]
    return ""


def _repeat(whole: str, places: str, block: str) -> Fraction:
    require(len(whole) + len(places) + len(block) <= MAX_DIGITS)
    base = Fraction(int(whole or "0")) + Fraction(int(places or "0"), 10 ** len(places))
    return base + Fraction(int(block), 10 ** len(places) * (10 ** len(block) - 1))
