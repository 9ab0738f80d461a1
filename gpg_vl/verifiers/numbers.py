"""Reads whole numbers and the quantities of geometry answers, exactly: no floats, no ``eval``, bounded digits.

A quantity is a sum of fraction * square root * power of pi, so every way to write it compares equal. Units are read and
not asked for, since the question states them, but ``5 cm`` is not ``5 m``.
What is no such sum (a letter of a multiple choice, a ratio) stays text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from math import gcd

MAX_CHARS = 512
MAX_DIGITS = 18  # of one number
MAX_RADICAND = 10**6
MAX_TERMS = 32
MAX_PRODUCTS = 4096  # of terms by terms in one text
MAX_DEPTH = 8  # of brackets

_INTEGER = re.compile(rf"[+-]?[0-9]{{1,{MAX_DIGITS}}}\.?")
_NUMBER = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?(?![0-9])|[0-9]+(?:\.[0-9]+)?|\.[0-9]+")

# One spelling for each symbol, applied in this order.
_SPELLINGS = (
    *((wrapper, "") for wrapper in ("$", "\\left", "\\right", "\\text", "\\mathrm", "\\boxed", "\\(", "\\)")),
    *((space, " ") for space in ("\\,", "\\;", "\\!", "\\ ", "~")),
    *((fraction, "\\frac") for fraction in ("\\dfrac", "\\tfrac")),
    *((root, "√") for root in ("\\sqrt", "sqrt")),
    *((pi, "π") for pi in ("\\pi", "pi")),
    *((times, "*") for times in ("\\times", "\\cdot", "×", "·")),
    ("÷", "/"),
    ("−", "-"),
)

_LENGTHS = {
    "mm": 1,
    "cm": 10,
    "dm": 100,
    "m": 1000,
    "km": 10**6,
    "毫米": 1,
    "厘米": 10,
    "分米": 100,
    "米": 1000,
    "千米": 10**6,
    "公里": 10**6,
    "海里": 1_852_000,
    **{
        prefix + name: size
        for prefix, size in {"milli": 1, "centi": 10, "": 1000, "kilo": 10**6}.items()
        for name in ("meter", "meters", "metre", "metres")
    },
    "nauticalmile": 1_852_000,
    "nauticalmiles": 1_852_000,
    "unit": 0,
    "units": 0,
}
_POWERS = {"square": 2, "cubic": 3, "sq": 2, "平方": 2, "立方": 3}
# What is measured, and the size among such units; 0 where the unit has none.
_UNITS = {
    "": ("", 0),
    **{
        length + (str(power) if power > 1 else ""): (f"m{power}", size**power)
        for length, size in _LENGTHS.items()
        for power in (1, 2, 3)
    },
    **{
        word + length: (f"m{power}", size**power)
        for length, size in _LENGTHS.items()
        for word, power in _POWERS.items()
    },
    **dict.fromkeys(("°", "º", "circ", "degree", "degrees", "deg", "度"), ("angle", 0)),
    **dict.fromkeys(("s", "second", "seconds", "秒"), ("time", 1)),
    **dict.fromkeys(("min", "minute", "minutes", "分钟"), ("time", 60)),
    **dict.fromkeys(("h", "hour", "hours", "小时", "时"), ("time", 3600)),
    **dict.fromkeys(("m/s", "米/秒"), ("speed", 3_600_000)),
    **dict.fromkeys(("km/h", "千米/时", "千米/小时"), ("speed", 1_000_000)),
    **dict.fromkeys(("海里/时", "海里/小时"), ("speed", 1_852_000)),
}
_UNIT_NOISE = str.maketrans({**dict.fromkeys(" \t\n\r{}^\\"), "²": "2", "³": "3"})
_NOT_FINITE = frozenset(["NAN", "INF", "INFINITY", "\\INFTY", "∞"])

_Terms = dict[tuple[int, int], Fraction]  # (squarefree radicand, power of pi) to its factor, none of them 0


@dataclass(frozen=True, slots=True)
class Quantity:
    """An exact number: ``8√3`` is ``Quantity(((3, 0, Fraction(8)),))``, and zero has no terms."""

    terms: tuple[tuple[int, int, Fraction], ...]  # radicand without square factors, power of pi, factor; sorted
    unit: tuple[str, int] = field(default=("", 0), compare=False)  # what it measures, and its size or 0

    def __str__(self) -> str:
        return "".join(_term_text(*term) for term in self.terms).removeprefix("+") or "0"


def _term_text(radicand: int, pi_power: int, factor: Fraction) -> str:
    symbols = (f"√{radicand}" if radicand > 1 else "") + ("π" if pi_power == 1 else f"π^{pi_power}" if pi_power else "")
    size = "" if symbols and abs(factor) == 1 else str(abs(factor))
    return ("-" if factor < 0 else "+") + size + symbols


def read_integer(text: str) -> int | None:
    """A whole number of at most 18 ASCII digits, signed or not; whitespace around and one final period may stand.

    >>> read_integer(" 12. "), read_integer("12 items"), read_integer("1e3")
    (12, None, None)
    """
    stripped = text.strip()
    return int(stripped.removesuffix(".")) if _INTEGER.fullmatch(stripped) else None


def normalise_quantity(text: str) -> Quantity | str | None:
    r"""What an answer stands for, as a value that ``==`` compares.

    Integers, decimals, ``a/b``, ``\frac{a}{b}``, roots and pi, sums and products of them, in LaTeX or plain, followed
    by a unit or not, become a ``Quantity``. Anything else stays text: upper case, without spaces, a single letter
    without its brackets. None stands for nothing at all, more than 512 characters, and values that are not finite.

    >>> str(normalise_quantity(r"$\frac{16\sqrt{3}}{2}$ cm")), normalise_quantity("(b)")
    ('8√3', 'B')
    """
    if len(text) > MAX_CHARS:
        return None
    cleaned = text.strip()
    for spelling, symbol in _SPELLINGS:
        cleaned = cleaned.replace(spelling, symbol)
    cleaned = cleaned.strip().removesuffix(".").removesuffix("。")
    try:
        return _Parser(cleaned).read()
    except _UnreadableError:
        return _plain_text(cleaned)


def same_quantity(left: str, right: str) -> bool:
    """Whether two answers stand for the same value, in units that agree; nothing equals an unreadable answer."""
    value, other = normalise_quantity(left), normalise_quantity(right)
    if isinstance(value, Quantity) and isinstance(other, Quantity):
        return same_size(value, other)
    return value is not None and value == other


def same_size(left: Quantity, right: Quantity) -> bool:
    """Whether two quantities are the same number and do not both name units, of the same kind, of different size."""
    (kind, size), (other_kind, other_size) = left.unit, right.unit
    return left == right and not (kind == other_kind and size and other_size and size != other_size)


def _plain_text(cleaned: str) -> str | None:
    word = "".join(cleaned.split()).upper()
    letter = word.strip("(){}.")
    if word.lstrip("+-") in _NOT_FINITE or not letter:
        return None
    return letter if len(letter) == 1 else word


class _UnreadableError(Exception):
    """The text is no quantity."""


def _require(condition: object) -> None:
    if not condition:
        raise _UnreadableError


class _Parser:
    """Recursive descent over cleaned text: sum, product, factor."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.depth = 0
        self.num_products = 0

    def read(self) -> Quantity:
        terms = self._sum()
        unit = self.text[self.position :].translate(_UNIT_NOISE).lower()
        _require(unit in _UNITS)
        return Quantity(tuple((*key, terms[key]) for key in sorted(terms)), _UNITS[unit])

    def _skip_spaces(self) -> None:
        while self.text[self.position : self.position + 1].isspace():
            self.position += 1

    def _sees(self, *symbols: str) -> bool:
        self._skip_spaces()
        return self.text.startswith(symbols, self.position)

    def _accept(self, symbol: str) -> bool:
        if not self._sees(symbol):
            return False
        self.position += len(symbol)
        return True

    def _sum(self) -> _Terms:
        self.depth += 1
        _require(self.depth <= MAX_DEPTH)
        total: _Terms = {}
        sign = self._sign() or 1
        while sign:
            total = _add(total, self._product(), sign)
            sign = self._sign()
        self.depth -= 1
        return total

    def _sign(self) -> int:
        return -1 if self._accept("-") else 1 if self._accept("+") else 0

    def _product(self) -> _Terms:
        result = self._factor()
        while True:
            if self._accept("/"):
                result = self._times(result, _invert(self._factor()))
            elif self._accept("*") or self._sees("(", "√", "π"):  # a number never follows a factor without a sign
                result = self._times(result, self._factor())
            else:
                return result

    def _times(self, left: _Terms, right: _Terms) -> _Terms:
        self.num_products += len(left) * len(right)
        _require(self.num_products <= MAX_PRODUCTS)
        return _multiply(left, right)

    def _factor(self) -> _Terms:
        if self._accept("π"):
            return {(1, 1): Fraction(1)}
        if self._accept("√"):
            return _root(self._group() if self._sees("{", "(") else _rational(self._number()))
        if self._accept("\\frac"):
            return self._times(self._group(), _invert(self._group()))
        return self._group() if self._sees("{", "(") else _rational(self._number())

    def _group(self) -> _Terms:
        closing = "}" if self._accept("{") else ")"
        _require(closing == "}" or self._accept("("))
        content = self._sum()
        _require(self._accept(closing))
        return content

    def _number(self) -> Fraction:
        self._skip_spaces()
        match = _NUMBER.match(self.text, self.position)
        _require(match and sum(char.isdigit() for char in match[0]) <= MAX_DIGITS)
        assert match is not None
        self.position = match.end()
        return Fraction(match[0].replace(",", ""))


def _rational(value: Fraction) -> _Terms:
    return {(1, 0): value} if value else {}


def _add(left: _Terms, right: _Terms, sign: int) -> _Terms:
    total = dict(left)
    for key, factor in right.items():
        total[key] = total.get(key, Fraction(0)) + sign * factor
    return _few_terms(total)


def _few_terms(terms: _Terms) -> _Terms:
    _require(len(terms) <= MAX_TERMS)
    return {key: factor for key, factor in terms.items() if factor}


def _multiply(left: _Terms, right: _Terms) -> _Terms:
    product: _Terms = {}
    for (radicand, pi_power), factor in left.items():
        for (other_radicand, other_pi_power), other_factor in right.items():
            shared = gcd(radicand, other_radicand)  # √a √b = shared √(ab / shared²), free of squares again
            key = (radicand // shared * (other_radicand // shared), pi_power + other_pi_power)
            product[key] = product.get(key, Fraction(0)) + factor * other_factor * shared
    return _few_terms(product)


def _invert(terms: _Terms) -> _Terms:
    _require(len(terms) == 1)  # not zero, and no sum
    ((radicand, pi_power), factor) = next(iter(terms.items()))
    return {(radicand, -pi_power): 1 / (factor * radicand)}


def _root(terms: _Terms) -> _Terms:
    """The square root of a rational that is not negative: √(p/q) = √(pq) / q."""
    _require(not terms or terms.keys() == {(1, 0)})
    value = terms.get((1, 0), Fraction(0))
    radicand, outside, divisor = value.numerator * value.denominator, 1, 2
    _require(0 <= radicand <= MAX_RADICAND)
    while divisor * divisor <= radicand:
        if radicand % (divisor * divisor):
            divisor += 1
        else:
            radicand //= divisor * divisor
            outside *= divisor
    return {(radicand, 0): Fraction(outside, value.denominator)} if value else {}
