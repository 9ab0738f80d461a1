"""Exact real numbers: sums of a fraction times powers of primes, of pi, of symbols and of nested roots.

Two numbers are equal where their sums are: powers of different primes with exponents below 1 are independent over the
fractions (Besicovitch 1940), so for roots of fractions and pi this decides equality. For what it does not decide
(``√(1+√(2+√3))`` in two forms) equal sums are equal numbers, and different sums count as different.

Everything is bounded: what grows beyond the limits raises ``UnreadableError``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, lcm, prod

MAX_BITS = 320  # of a numerator or denominator
MAX_TERMS = 32
MAX_POWER = 400
MAX_NESTING = 3  # of roots of sums

HALF = Fraction(1, 2)
PI = "π"

Base = "int | str | Exact"
Power = tuple["int | str | Exact", Fraction]


class UnreadableError(Exception):
    """The text has no value that can be read within the limits."""


def require(condition: object) -> None:
    if not condition:
        raise UnreadableError


@dataclass(frozen=True, slots=True)
class Exact:
    """Each term is its powers, sorted, and its factor; zero has no term."""

    terms: tuple[tuple[tuple[Power, ...], Fraction], ...]

    def __str__(self) -> str:
        """``-1/2π+8√3``, the same for equal numbers."""
        return "".join(_term_text(*term) for term in self.terms).removeprefix("+") or "0"

    @property
    def fraction(self) -> Fraction | None:
        """The number, where it is a fraction."""
        if not self.terms:
            return Fraction(0)
        return self.terms[0][1] if len(self.terms) == 1 and not self.terms[0][0] else None

    @property
    def nesting(self) -> int:
        bases = [base for powers, _ in self.terms for base, _ in powers if isinstance(base, Exact)]
        return 1 + max((base.nesting for base in bases), default=0)


def _term_text(powers: tuple[Power, ...], factor: Fraction) -> str:
    symbols = "".join(_power_text(base, power) for base, power in powers)
    size = "" if symbols and abs(factor) == 1 else str(abs(factor))
    return ("-" if factor < 0 else "+") + (f"({size})" if symbols and "/" in size else size) + symbols


def _power_text(base: int | str | Exact, power: Fraction) -> str:
    name = f"({base})" if isinstance(base, Exact) else str(base)
    if power == HALF:
        return f"√{name}"
    return name if power == 1 else f"{name}^({power})"


ZERO = Exact(())
ONE = Exact((((), Fraction(1)),))


def rational(value: Fraction | int) -> Exact:
    return Exact((((), Fraction(value)),)) if value else ZERO


def symbol(name: str) -> Exact:
    return Exact(((((name, Fraction(1)),), Fraction(1)),))


def add(left: Exact, right: Exact, sign: int = 1) -> Exact:
    return _collect([*left.terms, *((powers, sign * factor) for powers, factor in right.terms)])


def negate(value: Exact) -> Exact:
    return Exact(tuple((powers, -factor) for powers, factor in value.terms))


def multiply(left: Exact, right: Exact) -> Exact:
    if len(left.terms) == len(right.terms) == 1:
        (powers, factor), (other_powers, other_factor) = left.terms[0], right.terms[0]
        return _product(powers, other_powers, factor * other_factor)
    require(len(left.terms) * len(right.terms) <= 4 * MAX_TERMS)
    simple, rest = [], ZERO
    for powers, factor in left.terms:
        for other_powers, other_factor in right.terms:
            product = _product(powers, other_powers, factor * other_factor)
            if len(product.terms) == 1:
                simple.append(product.terms[0])
            else:
                rest = add(rest, product)
    return add(_collect(simple), rest) if rest.terms else _collect(simple)


def _collect(terms: Iterable[tuple[tuple[Power, ...], Fraction]]) -> Exact:
    total: dict[tuple[Power, ...], Fraction] = {}
    for powers, factor in terms:
        total[powers] = total[powers] + factor if powers in total else factor
    kept = [(powers, _bounded(factor)) for powers, factor in total.items() if factor]
    require(len(kept) <= MAX_TERMS)
    return Exact(tuple(sorted(kept, key=_term_order) if len(kept) > 1 else kept))


def _bounded(value: Fraction) -> Fraction:
    require(value.numerator.bit_length() <= MAX_BITS and value.denominator.bit_length() <= MAX_BITS)
    return value


def _base_order(base: int | str | Exact) -> tuple[int, int, str]:
    if isinstance(base, int):
        return (0, base, "")
    return (1, 0, base) if isinstance(base, str) else (2, 0, str(base))


def _term_order(term: tuple[tuple[Power, ...], Fraction]) -> list[tuple[tuple[int, int, str], Fraction]]:
    return [(_base_order(base), power) for base, power in term[0]]


def _product(left: tuple[Power, ...], right: tuple[Power, ...], factor: Fraction) -> Exact:
    """A term times a term: whole powers of primes go to the factor, those of nested sums are multiplied out."""
    if not left or not right:
        return Exact(((left or right, _bounded(factor)),))
    if all(power is HALF and isinstance(base, int) for base, power in (*left, *right)):
        return _product_of_roots({base for base, _ in left}, {base for base, _ in right}, factor)
    merged = dict(left)
    for base, power in right:
        merged[base] = merged[base] + power if base in merged else power
    return one_term(merged, factor)


def _product_of_roots(left: set, right: set, factor: Fraction) -> Exact:
    """Of square roots of primes, as ``one_term`` gives it too: a prime that stands in both goes to the factor."""
    return Exact(((tuple([(prime, HALF) for prime in sorted(left ^ right)]), _bounded(factor * prod(left & right))),))


def one_term(powers: dict[int | str | Exact, Fraction], factor: Fraction) -> Exact:
    kept: list[Power] = []
    extra = ONE
    for base, power in powers.items():
        whole = power.numerator // power.denominator
        if isinstance(base, str):
            require(abs(power) <= MAX_POWER)
            whole = 0
        elif isinstance(base, int) and whole:
            factor *= _whole_power(Fraction(base), whole)
        elif isinstance(base, Exact) and whole > 0:
            extra = multiply(extra, raise_to_whole(base, whole))
        elif isinstance(base, Exact):
            whole = 0
        if power != whole:
            kept.append((base, power - whole))
    kept.sort(key=lambda each: _base_order(each[0]))
    term = Exact(((tuple(kept), _bounded(factor)),))
    return term if extra is ONE else multiply(extra, term)


def _whole_power(value: Fraction, power: int) -> Fraction:
    bits = max(value.numerator.bit_length(), value.denominator.bit_length())
    require(abs(power) <= MAX_POWER and (bits * abs(power) <= 2 * MAX_BITS or abs(value) == 1))
    require(value or power > 0)
    return _bounded(value**power)


def divide(left: Exact, right: Exact) -> Exact:
    return multiply(left, invert(right))


def invert(value: Exact) -> Exact:
    """1 / value: square roots in the denominator are removed, any other sum stays as a whole."""
    require(value.terms)
    if len(value.terms) == 1:
        powers, factor = value.terms[0]
        return one_term({base: -power for base, power in powers}, 1 / factor)
    prime = _square_root_in(value)
    if prime is None:
        content, primitive = primitive_part(value)
        require(primitive.nesting <= MAX_NESTING)
        return divide(Exact((((((primitive, Fraction(-1)),)), Fraction(1)),)), content)
    conjugate = Exact(tuple((powers, -factor if (prime, HALF) in powers else factor) for powers, factor in value.terms))
    return multiply(conjugate, invert(multiply(value, conjugate)))


def _square_root_in(value: Exact) -> int | None:
    """The largest prime that stands in the sum below square roots alone."""
    powers = [each for term, _ in value.terms for each in term if isinstance(each[0], int)]
    others = {base for base, power in powers if power != HALF}
    primes = [base for base, _ in powers if isinstance(base, int) and base not in others]
    return max(primes, default=None)


def primitive_part(value: Exact) -> tuple[Exact, Exact]:
    """A sum as its content times a sum with whole factors that share no divisor, the first of them positive."""
    factors = [factor for _, factor in value.terms]
    content = Fraction(gcd(*(f.numerator for f in factors)), lcm(*(f.denominator for f in factors)))
    if factors[0] < 0:
        content = -content
    return rational(content), Exact(tuple((powers, factor / content) for powers, factor in value.terms))


def raise_to_whole(base: Exact, power: int) -> Exact:
    exponent = abs(power)
    require(exponent <= MAX_POWER and (base.terms or power > 0))
    if len(base.terms) <= 1 and base.fraction is not None:
        return rational(_whole_power(base.fraction, power))
    require(len(base.terms) == 1 or exponent <= 12)
    result, square = ONE, base
    while exponent:
        result = multiply(result, square) if exponent & 1 else result
        exponent >>= 1
        square = multiply(square, square) if exponent else square
    return result if power > 0 else invert(result)


def symbols_of(value: Exact) -> set[str]:
    found: set[str] = set()
    for powers, _ in value.terms:
        for base, _ in powers:
            found |= {base} if isinstance(base, str) else symbols_of(base) if isinstance(base, Exact) else set()
    return found
