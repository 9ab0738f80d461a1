"""Sine, cosine and tangent: exact at multiples of 15 degrees, a symbol at any other angle."""

from __future__ import annotations

from fractions import Fraction

from gpg_vl.verifiers.maths.exact import PI, ZERO, Exact, add, divide, multiply, negate, rational, require, symbol
from gpg_vl.verifiers.maths.roots import root

FUNCTIONS = frozenset(["sin", "cos", "tan", "cot"])


def _sines() -> dict[int, Exact]:
    """Of 0, 15, ... 90 degrees."""
    half, two, three, six = rational(Fraction(1, 2)), *(root(rational(n), 2) for n in (2, 3, 6))
    quarter = rational(Fraction(1, 4))
    return {
        0: ZERO,
        15: multiply(add(six, two, -1), quarter),
        30: half,
        45: multiply(two, half),
        60: multiply(three, half),
        75: multiply(add(six, two), quarter),
        90: rational(1),
    }


_SINES = _sines()


def evaluate_function(name: str, angle: Exact, in_degrees: bool) -> Exact:
    """The function's value.

    Raises:
        UnreadableError: the angle names neither degrees nor pi, or the tangent has no value there
    """
    degrees = angle.fraction if in_degrees else divide(multiply(angle, rational(180)), symbol(PI)).fraction
    if degrees is None:
        require(in_degrees or angle.fraction is None)
        return symbol(f"{name}({angle}{'°' if in_degrees else ''})")
    require(abs(degrees) <= 10**6 and (in_degrees or degrees != 0))
    if degrees % 15:
        return _symbol_of(name, degrees)
    if name in ("sin", "cos"):
        return _sine(degrees + (90 if name == "cos" else 0))
    sine, cosine = _sine(degrees), _sine(degrees + 90)
    return divide(sine, cosine) if name == "tan" else divide(cosine, sine)


def _sine(degrees: Fraction) -> Exact:
    turned = int(degrees % 360)
    value = _SINES[min(turned % 180, 180 - turned % 180)]
    return value if turned < 180 else negate(value)


def _symbol_of(name: str, degrees: Fraction) -> Exact:
    """``cos 50°`` and ``sin 40°`` are one symbol."""
    if name == "cos" and 0 < degrees < 90:
        return symbol(f"sin({90 - degrees})")
    return symbol(f"{name}({degrees})")
