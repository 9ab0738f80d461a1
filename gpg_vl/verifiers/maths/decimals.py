"""Decimals of exact numbers, for what only decimals tell: a sign, and whether long decimals are right."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Context, Decimal, localcontext
from fractions import Fraction

from gpg_vl.verifiers.maths.exact import PI, Exact, require

PRECISION = 60
FEWEST_DIGITS = 9  # of a decimal that stands for a number which no decimal equals
FLOAT_DIGITS = 15  # of a double precision number that are always right
_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")
_CONTEXT = Context(prec=PRECISION, Emax=10**6, Emin=-(10**6))


def to_decimal(value: Exact) -> Decimal:
    """The number to about 60 digits, less those that the sum cancels.

    Raises:
        UnreadableError: it holds a symbol, or its terms cancel to less than 1e-30 of the largest
    """
    with localcontext(_CONTEXT):
        terms = [_term_decimal(powers, factor) for powers, factor in value.terms]
        total = sum(terms, Decimal(0))
        require(not terms or abs(total) > max(map(abs, terms)) * Decimal("1e-30"))
        return total


def _term_decimal(powers: tuple, factor: Fraction) -> Decimal:
    result = Decimal(factor.numerator) / Decimal(factor.denominator)
    for base, power in powers:
        require(base == PI or not isinstance(base, str))
        number = _PI if base == PI else Decimal(base) if isinstance(base, int) else to_decimal(base)
        require(number > 0)
        if power == Fraction(1, 2):
            result *= number.sqrt()
        else:
            result *= number ** (Decimal(power.numerator) / Decimal(power.denominator))
    return result


@dataclass(frozen=True, slots=True)
class Literal:
    """A decimal as it was written: its value, and how many places it has."""

    value: Fraction
    places: int

    @property
    def num_digits(self) -> int:
        """Digits from the first that is not 0."""
        scaled = abs(self.value) * 10**self.places
        return len(str(int(scaled))) if scaled >= 1 else 0


def is_finite_decimal(value: Exact) -> bool:
    """Whether some decimal equals the number."""
    fraction = value.fraction
    if fraction is None:
        return False
    rest = fraction.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1


def is_rounded_from(literal: Literal, value: Exact, fewest_digits: int = FEWEST_DIGITS) -> bool:
    """Whether the decimal is the number cut or rounded to its places, of which the first 15 digits are looked at.

    >>> from gpg_vl.verifiers.maths.exact import rational
    >>> third = rational(Fraction(1, 3))
    >>> [is_rounded_from(Literal(Fraction(text), len(text) - 2), third) for text in ("0.333333333", "0.33")]
    [True, False]
    """
    if literal.num_digits < fewest_digits:
        return False
    places = literal.places - max(0, literal.num_digits - FLOAT_DIGITS)
    with localcontext(_CONTEXT):
        number, written = to_decimal(value), Decimal(literal.value.numerator) / Decimal(literal.value.denominator)
        unit = Decimal(1).scaleb(-places)
        ways = {number.quantize(unit, rounding) for rounding in ("ROUND_DOWN", ROUND_HALF_EVEN, ROUND_HALF_UP)}
        return any(written.quantize(unit, rounding) in ways for rounding in ("ROUND_DOWN", ROUND_HALF_EVEN))
