r"""Evaluates one mathematical expression, exactly and within bounds: the whole text, or nothing.

Sums, products, powers and roots of numbers, pi, symbols and the sines of angles, in LaTeX or plain, with a unit at the
end or without. A number never follows a factor without a sign, so ``3 4`` and ``(3)4`` are not expressions, and a mixed
number needs a proper fraction after a whole number.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from fractions import Fraction

from gpg_vl.verifiers.maths import exact
from gpg_vl.verifiers.maths.decimals import Literal
from gpg_vl.verifiers.maths.exact import Exact, UnreadableError, rational, require, symbol
from gpg_vl.verifiers.maths.roots import raise_to, root
from gpg_vl.verifiers.maths.sines import FUNCTIONS, evaluate_function
from gpg_vl.verifiers.maths.tokens import Token, tokenize
from gpg_vl.verifiers.maths.units import DEGREE, NO_UNIT, Unit, read_unit

SYMBOLS_AFTER_NUMBERS = ("g", "l")
"""Letters that stand for a symbol right after a number, for grams and litres after a space."""
MAX_DEPTH = 8  # of brackets and powers
MAX_COST = 3000  # of multiplications, terms by terms

_CLOSING = {"(": ")", "{": "}", "[": "]"}
_ROOTS = {"√": 2, "∛": 3, "∜": 4}
_DEGREES = ("°", "度", "degrees", "degree", "deg")
_MINUTES, _SECONDS = ("'", "minutes", "minute", "分"), ('"', "seconds", "second", "秒")
_END = Token("end", "", -1)


@dataclass(frozen=True, slots=True)
class Number:
    """A value with its unit; ``literal`` where it is written as one decimal."""

    value: Exact
    unit: Unit = NO_UNIT
    literal: Literal | None = None
    name: str = ""  # of the symbol it is said to be the value of

    def __str__(self) -> str:
        """The same for every spelling of the number; units are left out, as answers may leave them out."""
        return str(self.value)


def read_expression(text: str) -> Number:
    """The number that a cleaned text stands for.

    Raises:
        UnreadableError: it is not a number, or exceeds the limits
    """
    return _ExpressionParser(text).read()


class _ExpressionParser:
    """Recursive descent: sum, product, power, atom."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = tokenize(text)
        self.index = 0
        self.depth = 0
        self.cost = 0

    def read(self) -> Number:
        require(self.tokens)
        value = self._sum()
        angle = self._minutes(value)
        if angle is not None:
            return Number(angle, DEGREE)
        unit = read_unit(self._rest())
        require(unit is not None)
        assert unit is not None
        return Number(value, unit, self._literal())

    def _peek(self, ahead: int = 0) -> Token:
        index = self.index + ahead
        return self.tokens[index] if index < len(self.tokens) else _END

    def _rest(self) -> str:
        return self.text[self._peek().start :] if self.index < len(self.tokens) else ""

    def _accept(self, *signs: str) -> str:
        token = self._peek()
        if token.kind == "sign" and token.text in signs:
            self.index += 1
            return token.text
        return ""

    def _literal(self) -> Literal | None:
        """Of a text that is one decimal, signed or not, and its unit."""
        start = 1 if self.tokens[0].kind == "sign" and self.tokens[0].text in "+-" else 0
        literal = self.tokens[start].literal if len(self.tokens) > start and self.index == start + 1 else None
        negative = start and self.tokens[0].text == "-"
        return Literal(-literal.value, literal.places) if literal and negative else literal

    def _minutes(self, degrees: Exact) -> Exact | None:
        """``30°15'`` and ``30°15'30"`` as degrees, where such minutes follow and end the text."""
        start = self.index
        whole = degrees.fraction
        shares = []
        if whole is not None and self._accept_degree():
            for marks, size in (_MINUTES, 60), (_SECONDS, 3600):
                token, sign = self._peek(), self._peek(1).text.lower()
                if token.kind == "number" and token.value is not None and token.value < 60 and sign in marks:
                    shares.append(token.value / size)
                    self.index += 2
        if not shares or self.index < len(self.tokens):
            self.index = start
            return None
        assert whole is not None
        return rational(whole + sum(shares))

    def _sum(self) -> Exact:
        self.depth += 1
        require(self.depth <= MAX_DEPTH)
        sign = -1 if self._accept("+", "-") == "-" else 1
        total = self._product()
        total = total if sign > 0 else exact.negate(total)
        while operator := self._accept("+", "-"):
            total = exact.add(total, self._product(), 1 if operator == "+" else -1)
        self.depth -= 1
        return total

    def _product(self) -> Exact:
        result = self._power()
        while True:
            if self._accept("/"):
                result = self._times(result, exact.invert(self._signed_power()))
            elif self._accept("*"):
                result = self._times(result, self._signed_power())
            elif self._starts_factor():
                result = self._times(result, self._power())
            else:
                return result

    def _signed_power(self) -> Exact:
        sign = self._accept("-", "+")
        value = self._power()
        return exact.negate(value) if sign == "-" else value

    def _starts_factor(self) -> bool:
        """Whether a factor without a sign before it follows: none is a number, nor a unit that ends the text."""
        token = self._peek()
        if token.kind == "sign":
            follows = token.text in ("√", "∛", "∜", "π", "\\frac") or token.text in ("(", "{", "[")
            return follows and (token.text not in _CLOSING or read_unit(self._rest()) is None)
        if token.text.lower() in _DEGREES:
            return False
        return token.kind == "word" and (read_unit(self._rest()) is None or self._is_symbol(token))

    def _is_symbol(self, token: Token) -> bool:
        """Whether a letter right after a number stands for one, although grams and litres have the same letter."""
        return token.text in SYMBOLS_AFTER_NUMBERS and not token.spaced and self.text.endswith(token.text)

    def _times(self, left: Exact, right: Exact) -> Exact:
        self.cost += len(left.terms) * len(right.terms)
        require(self.cost <= MAX_COST)
        return exact.multiply(left, right)

    def _power(self) -> Exact:
        base = self._atom()
        token = self._peek()
        if token.kind == "raised":
            self.index += 1
            return self._raise(base, rational(token.value or 0))
        if token.kind == "sign" and token.text == "^" and not self._is_degree_sign():
            self.index += 1
            return self._raise(base, self._exponent())
        return base

    def _is_degree_sign(self) -> bool:
        """Whether the power is a degree sign, as in ``30^\\circ`` and ``30^{o}``."""
        return read_unit(self._rest()) is DEGREE or self._peek(1).text in ("°", "'") or self._peek(2).text in ("°", "'")

    def _exponent(self) -> Exact:
        self.depth += 1
        require(self.depth <= MAX_DEPTH)
        value = self._signed_power()
        if value.fraction is not None and self._accept("^"):
            require(self.index == len(self.tokens) or self._peek().kind == "word")  # cm^2^, as Markdown has it
        self.depth -= 1
        return value

    def _raise(self, base: Exact, power: Exact) -> Exact:
        exponent = power.fraction
        require(exponent is not None)
        assert exponent is not None
        self.cost += len(base.terms) ** 2 * min(abs(exponent.numerator).bit_length(), 9)
        require(self.cost <= MAX_COST)
        return raise_to(base, exponent)

    def _atom(self) -> Exact:
        token = self._peek()
        self.index += 1
        if token.kind == "number":
            return self._mixed(token)
        if token.kind == "vulgar":
            return rational(token.value or 0)
        if token.kind == "word":
            return self._word(token.text)
        if token.text in _ROOTS:
            return self._root(_ROOTS[token.text])
        if token.text == "\\frac":
            return self._fraction()
        if token.text in ("π", "∞"):
            return symbol(token.text)
        require(token.text in _CLOSING)
        content = self._sum()
        require(self._accept(_CLOSING[token.text]))
        return content

    def _mixed(self, token: Token) -> Exact:
        """A number, with the proper fraction that follows a whole one."""
        value = token.value or Fraction(0)
        following, slash, below = self._peek(), self._peek(1), self._peek(2)
        if token.text.isdigit() and following.kind == "vulgar":
            self.index += 1
            return rational(value + (following.value or 0))
        if token.text.isdigit() and (following.kind, following.text) == ("sign", "\\frac"):
            return self._mixed_latex(value)
        written = token.text + following.text + below.text
        if following.kind == "number" and following.spaced and slash.text == "/" and written.isdigit():
            self.index += 3
            return rational(value + _proper(following.value, below.value))
        return rational(value)

    def _mixed_latex(self, whole: Fraction) -> Exact:
        """``1\\frac{1}{2}`` is 3/2; before a fraction with a root or a symbol above it, the number is its factor."""
        self.index += 1
        above, below = self._fraction_parts()
        top, bottom = above.fraction, below.fraction
        if top is None or bottom is None:
            return self._times(rational(whole), exact.divide(above, below))
        return rational(whole + _proper(top, bottom))

    def _fraction(self) -> Exact:
        above, below = self._fraction_parts()
        return self._times(above, exact.invert(below))

    def _fraction_parts(self) -> tuple[Exact, Exact]:
        """In braces, or two digits, as TeX reads ``\\frac32``."""
        token = self._peek()
        if token.kind == "number" and len(token.text) == 2 and token.text.isdigit():
            self.index += 1
            return rational(int(token.text[0])), rational(int(token.text[1]))
        return self._argument(), self._argument()

    def _argument(self) -> Exact:
        """A group in braces or brackets, or a single digit or symbol."""
        token = self._peek()
        if token.kind == "number":
            require(len(token.text) == 1)
        return self._atom() if token.kind != "number" else self._digit()

    def _digit(self) -> Exact:
        self.index += 1
        return rational(self.tokens[self.index - 1].value or 0)

    def _root(self, degree: int) -> Exact:
        if degree == 2 and self._accept("["):
            number = self._sum().fraction
            require(self._accept("]") and number is not None and number.denominator == 1)
            degree = int(number or 0)
        self.depth += 1
        require(self.depth <= MAX_DEPTH)
        token = self._peek()
        if token.kind == "number":
            self.index += 1
            value = rational(token.value or 0)
        else:
            value = self._atom()
        self.depth -= 1
        return root(value, degree)

    def _word(self, word: str) -> Exact:
        name = word.removeprefix("\\").lower()
        if name in FUNCTIONS:
            return self._function(name)
        bare = word.removeprefix("\\")
        if PRODUCT.fullmatch(bare) and _ARITHMETIC.search(self.text):
            return functools.reduce(exact.multiply, map(symbol, bare))
        require(bare in GREEK or _SYMBOL.fullmatch(bare))
        return symbol(GREEK.get(bare, bare))

    def _function(self, name: str) -> Exact:
        """A sine, cosine or tangent of an angle in degrees, or of a multiple of pi."""
        power = self._exponent() if self._accept("^") else rational(1)
        opening = self._accept("(", "{")
        angle = self._sum() if opening else self._angle()
        in_degrees = self._accept_degree()
        require(not opening or self._accept(_CLOSING[opening]))
        in_degrees = in_degrees or (bool(opening) and self._accept_degree())
        return self._raise(evaluate_function(name, angle, in_degrees), power)

    def _angle(self) -> Exact:
        """An angle without brackets: a number, a symbol, or a fraction of pi such as ``2π/3``."""
        value = self._atom()
        while self._peek().text == "π":
            value = self._times(value, self._atom())
        return exact.divide(value, self._atom()) if self._accept("/") else value

    def _accept_degree(self) -> bool:
        start = self.index
        opened = self._accept("^") and self._accept("{")
        token = self._peek()
        if token.text.lower() in _DEGREES:
            self.index += 1
            if not opened or self._accept("}"):
                return True
        self.index = start
        return False


def _proper(above: Fraction | None, below: Fraction | None) -> Fraction:
    if above is None or below is None or not 0 < above < below or (above.denominator, below.denominator) != (1, 1):
        raise UnreadableError
    return above / below


_SYMBOL = re.compile(r"[A-Za-zα-ωΑ-Ω]")
PRODUCT = re.compile("[a-d]{2,3}|[x-z]{2,3}|[abr]h|mn|pq")
"""Letters that are variables side by side where something is computed; any other letters are a word."""
_ARITHMETIC = re.compile(r"[0-9+*/^√\\]")
_GREEK_TEXT = "alpha beta gamma delta theta lambda mu phi omega rho sigma tau"
GREEK = dict(
    zip(
        _GREEK_TEXT.split(),
        "αβγδθλμφωρστ",
        strict=True,
    )
)
