"""Roots and powers with fractions for exponents, of exact numbers."""

from __future__ import annotations

import functools
from fractions import Fraction
from math import isqrt, prod

from gpg_vl.verifiers.maths.decimals import to_decimal
from gpg_vl.verifiers.maths.exact import (
    HALF,
    MAX_NESTING,
    MAX_POWER,
    PI,
    Exact,
    add,
    multiply,
    negate,
    one_term,
    primitive_part,
    raise_to_whole,
    rational,
    require,
    symbols_of,
)

MAX_RADICAND = 10**7  # of a numerator or denominator below a root
MAX_DEGREE = 60  # of a root


def raise_to(base: Exact, power: Fraction) -> Exact:
    """A power. Of a negative number, and of zero, only those that are defined for sure."""
    if power.denominator == 1 or not base.terms:
        return raise_to_whole(base, power.numerator)
    require(power.denominator <= MAX_DEGREE and abs(power.numerator) <= MAX_POWER)
    if len(base.terms) > 1 or any(isinstance(each, str) and each != PI for each, _ in base.terms[0][0]):
        return raise_to(_root_of_sum(base, power.denominator), Fraction(power.numerator))
    powers, factor = base.terms[0]
    require(factor > 0)
    merged = {each: exponent * power for each, exponent in powers}
    for prime, exponent in _factorised(factor).items():
        merged[prime] = merged.get(prime, Fraction(0)) + exponent * power
    return one_term(merged, Fraction(1))


def root(value: Exact, degree: int) -> Exact:
    """The real root; an odd one of a negative fraction too."""
    require(2 <= degree <= MAX_DEGREE)
    fraction = value.fraction
    if fraction is not None and fraction.denominator == 1 and fraction > 0 and degree == 2:
        return _root_of_whole(fraction.numerator)
    if fraction is not None and fraction < 0 and degree % 2:
        return negate(root(negate(value), degree))
    return raise_to(value, Fraction(1, degree))


def _root_of_whole(number: int) -> Exact:
    """The square root of a whole number above 0, as ``raise_to`` gives it too: most roots are of one."""
    factors = _factors(number)
    outside = prod([prime ** (power // 2) for prime, power in factors])
    return Exact(((tuple([(prime, HALF) for prime, power in factors if power % 2]), Fraction(outside)),))


def _root_of_sum(value: Exact, degree: int) -> Exact:
    if degree == 2:
        simple = _denest(value)
        if simple is not None:
            return simple
    require((symbols_of(value) - {PI}) or to_decimal(value) > 0)
    content, primitive = primitive_part(value)
    if content.terms[0][1] < 0:
        content, primitive = negate(content), negate(primitive)
    require(primitive.nesting < MAX_NESTING)
    share = Fraction(1, degree)
    return multiply(raise_to(content, share), Exact(((((primitive, share),), Fraction(1)),)))


def _denest(value: Exact) -> Exact | None:
    """``√(a + b√n)`` as a sum of two square roots, where ``a² - b²n`` is the square of a fraction."""
    plain = [factor for powers, factor in value.terms if not powers]
    others = [(powers, factor) for powers, factor in value.terms if powers]
    if len(plain) != 1 or len(others) != 1 or plain[0] <= 0 or any(power != HALF for _, power in others[0][0]):
        return None
    square = multiply(Exact((others[0],)), Exact((others[0],))).fraction
    inner = _square_root(plain[0] ** 2 - square) if square is not None else None
    if inner is None:
        return None
    large, small = (root(rational((plain[0] + part) / 2), 2) for part in (inner, -inner))
    return add(large, small, 1 if others[0][1] > 0 else -1)


def _square_root(value: Fraction) -> Fraction | None:
    if value < 0:
        return None
    found = Fraction(isqrt(value.numerator), isqrt(value.denominator))
    return found if found * found == value else None


def _factorised(value: Fraction) -> dict[int | str | Exact, Fraction]:
    powers: dict[int | str | Exact, Fraction] = {prime: Fraction(power) for prime, power in _factors(value.numerator)}
    powers |= {prime: Fraction(-power) for prime, power in _factors(value.denominator)}
    return powers


@functools.lru_cache(maxsize=4096)
def _factors(number: int) -> tuple[tuple[int, int], ...]:
    """Primes with their powers; a number beyond the limit must be a square within it."""
    whole = isqrt(number)
    if number > MAX_RADICAND:
        require(whole * whole == number and whole <= MAX_RADICAND)
        return tuple((prime, 2 * power) for prime, power in _factors(whole))
    found: dict[int, int] = {}
    prime = 2
    while prime * prime <= number:
        while number % prime == 0:
            number //= prime
            found[prime] = found.get(prime, 0) + 1
        prime += 1 if prime == 2 else 2
    if number > 1:
        found[number] = found.get(number, 0) + 1
    return tuple(found.items())
