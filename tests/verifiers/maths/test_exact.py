from fractions import Fraction

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from gpg_vl.verifiers.maths import exact
from gpg_vl.verifiers.maths.decimals import Literal, is_finite_decimal, is_rounded_from, to_decimal
from gpg_vl.verifiers.maths.exact import Exact, UnreadableError, rational, symbol
from gpg_vl.verifiers.maths.roots import raise_to, root
from gpg_vl.verifiers.maths.sines import evaluate_function

small = st.fractions(-20, 20, max_denominator=12)
positive = st.fractions(Fraction(1, 12), 60, max_denominator=12)


@st.composite
def trees(draw: st.DrawFn, depth: int = 2) -> tuple[Exact, sympy.Expr]:
    """An exact number beside sympy's."""
    kind = draw(st.sampled_from(["number", "root", "pi"] if depth == 0 else ["sum", "product", "quotient", "square"]))
    if kind == "number":
        value = draw(small)
        return rational(value), sympy.Rational(value.numerator, value.denominator)
    if kind == "root":
        value, degree = draw(positive), draw(st.integers(2, 4))
        return root(rational(value), degree), sympy.root(sympy.Rational(value.numerator, value.denominator), degree)
    if kind == "pi":
        return symbol("π"), sympy.pi
    left, other = draw(trees(depth=depth - 1))
    right, another = draw(trees(depth=depth - 1))
    try:
        if kind == "square":
            return exact.raise_to_whole(left, 2), other**2
        if kind == "sum":
            return exact.add(left, right), other + another
        if kind == "quotient" and right.terms:
            return exact.divide(left, right), other / another
        return exact.multiply(left, right), other * another
    except UnreadableError:
        return left, other


@given(trees())
@settings(max_examples=60, deadline=None)
def test_arithmetic_agrees_with_sympy(tree: tuple[Exact, sympy.Expr]) -> None:
    value, other = tree
    expected = sympy.N(other, 50)
    if abs(expected) < 1e-25:
        return
    try:
        found = sympy.Float(str(to_decimal(value)), 50)
    except UnreadableError:  # beyond the bounds: such an answer is refused
        return
    assert abs(found - expected) <= abs(expected) * sympy.Float("1e-30")


@given(trees(), trees(), trees(depth=1))
@settings(max_examples=60, deadline=None)
def test_the_same_number_in_another_order_is_the_same_record(
    one: tuple[Exact, object], two: tuple[Exact, object], three: tuple[Exact, object]
) -> None:
    a, b, c = one[0], two[0], three[0]
    try:
        left, right = exact.multiply(exact.add(a, b), c), exact.add(exact.multiply(b, c), exact.multiply(a, c))
    except UnreadableError:
        return
    assert left == right
    assert exact.add(left, right, -1).terms == ()


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (root(rational(8), 3), rational(2)),
        (root(rational(-8), 3), rational(-2)),
        (raise_to(rational(4), Fraction(3, 2)), rational(8)),
        (
            root(exact.add(rational(3), exact.multiply(rational(2), root(rational(2), 2))), 2),
            exact.add(rational(1), root(rational(2), 2)),
        ),
        (
            exact.divide(rational(1), exact.add(rational(1), root(rational(2), 2))),
            exact.add(root(rational(2), 2), rational(1), -1),
        ),
        (evaluate_function("sin", rational(30), in_degrees=True), rational(Fraction(1, 2))),
        (evaluate_function("cos", exact.divide(symbol("π"), rational(3)), in_degrees=False), rational(Fraction(1, 2))),
        (evaluate_function("tan", rational(45), in_degrees=True), rational(1)),
        (evaluate_function("sin", rational(210), in_degrees=True), rational(Fraction(-1, 2))),
        (
            evaluate_function("cos", rational(50), in_degrees=True),
            evaluate_function("sin", rational(40), in_degrees=True),
        ),
    ],
)
def test_known_values(left: Exact, right: Exact) -> None:
    assert left == right


@given(st.integers(-72, 72))
def test_sines_agree_with_sympy(steps: int) -> None:
    for name, function in (("sin", sympy.sin), ("cos", sympy.cos)):
        value = evaluate_function(name, rational(15 * steps), in_degrees=True)
        expected = sympy.N(function(sympy.rad(15 * steps)), 40)
        found = to_decimal(value) if value.terms else 0
        assert abs(sympy.Float(str(found), 40) - expected) < 1e-35


@pytest.mark.parametrize(
    "compute",
    [
        lambda: exact.divide(rational(1), exact.ZERO),
        lambda: root(rational(-2), 2),
        lambda: raise_to(rational(0), Fraction(-1)),
        lambda: raise_to(rational(0), Fraction(0)),
        lambda: raise_to(rational(9), Fraction(10**9)),
        lambda: raise_to(rational(10**40), Fraction(9)),
        lambda: root(rational(10**12 + 39), 2),
        lambda: root(rational(2), 1000),
        lambda: evaluate_function("tan", rational(90), in_degrees=True),
        lambda: evaluate_function("sin", rational(30), in_degrees=False),
        lambda: raise_to(exact.add(rational(1), symbol("x")), Fraction(300)),
        lambda: to_decimal(symbol("x")),
    ],
)
def test_what_is_undefined_or_too_large_is_refused(compute: object) -> None:
    with pytest.raises(UnreadableError):
        compute()  # type: ignore[operator]


@given(st.sampled_from([Fraction(1, 3), Fraction(2, 7), Fraction(22, 9), Fraction(1, 12)]), st.integers(9, 30))
def test_long_decimals_of_fractions(value: Fraction, places: int) -> None:
    cut = Fraction(int(value * 10**places), 10**places)
    assert is_rounded_from(Literal(cut, places), rational(value)) == (Literal(cut, places).num_digits >= 9)
    for wrong in (2, -2, 5):
        assert not is_rounded_from(Literal(cut + Fraction(wrong, 10**9), places), rational(value))


def test_fewer_digits_and_wrong_rounding_are_refused() -> None:
    third, two = rational(Fraction(1, 3)), rational(Fraction(2, 3))
    written = {
        "0.33333333": third,
        "0.333333334": third,
        "0.666666668": two,
        "3.1415926": symbol("π"),
        "1.414213563": root(rational(2), 2),
    }
    assert not any(is_rounded_from(Literal(Fraction(text), len(text) - 2), value) for text, value in written.items())
    right = {
        "0.666666667": two,
        "0.666666666": two,
        "3.141592653": symbol("π"),
        "7.0710678118654755": root(rational(50), 2),
    }
    assert all(is_rounded_from(Literal(Fraction(text), len(text) - 2), value) for text, value in right.items())


def test_finite_decimals() -> None:
    assert is_finite_decimal(rational(Fraction(3, 40)))
    assert not is_finite_decimal(rational(Fraction(1, 3)))
    assert not is_finite_decimal(symbol("π"))


@given(st.integers(1, 10**7))
def test_the_root_of_a_whole_number_is_the_power_one_half(number: int) -> None:
    """Mutation that must fail: the prime of an even power stays below the root."""
    assert root(rational(number), 2) == raise_to(rational(number), Fraction(1, 2))


@given(st.sets(st.sampled_from([2, 3, 5, 7, 11])), st.sets(st.sampled_from([2, 3, 5, 7, 11])), st.fractions())
def test_roots_of_primes_are_multiplied_as_any_powers(left: set[int], right: set[int], factor: Fraction) -> None:
    """Mutation that must fail: a prime that stands in both is dropped."""
    powers = {prime: Fraction(1, 2) * (prime in left) + Fraction(1, 2) * (prime in right) for prime in left | right}
    assert exact._product_of_roots(left, right, factor) == exact.one_term(powers, factor)
