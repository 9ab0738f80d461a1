"""Grammars of the spellings of geometry's values: angles, fractions, roots, multiples of pi, points."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from hypothesis import strategies as st

from tests.support.spellings import FRAMES, SECOND, Grammar, fixed

SECONDS = [*SECOND, "{0} = {1}", "{0} \\text{{ or }} {1}", "x = {0}, y = {1}"]


def grammar(values: st.SearchStrategy[Any], forms: list[Any], seconds: list[str] = SECONDS) -> Grammar:
    return Grammar("geometry", values, forms, FRAMES, {}, seconds)


ANGLES = grammar(
    st.integers(1, 179),
    [
        *fixed(
            "{}°",
            "{}^\\circ",
            "{}^{{\\circ}}",
            "{}^{{o}}",
            "{}\\degree",
            "{}º",
            "{}゜",
            "{} degrees",
            "{}度",
            "{} deg",
            "∠A = {}°",
            "\\angle ABC = {}^\\circ",
            "The measure of angle A is {} degrees",
            "∠BAC的度数为{}°",
            "{}.0°",
            "{}°0'",
        ),
        lambda n: f"{60 * n}'",
        lambda n: f"{n + 10}° - 10°",
        lambda n: f"180° - {180 - n}° = {n}°",
        lambda n: f"{2 * n}°/2",
        lambda n: f"\\frac{{{n}\\pi}}{{180}} rad",
    ],
)


def mixed(value: Fraction) -> str:
    whole, rest = divmod(value, 1)
    return f"{whole} {rest.numerator}/{rest.denominator}" if whole and rest else str(value)


def written(template: str) -> Any:
    return lambda value: template.format(value.numerator, value.denominator, 2 * value.numerator, 2 * value.denominator)


FRACTIONS = grammar(
    st.fractions(Fraction(1, 30), 60, max_denominator=30).filter(lambda value: value.denominator > 1),
    [
        str,
        mixed,
        *map(
            written,
            (
                "\\frac{{{0}}}{{{1}}}",
                "\\dfrac{{{0}}}{{{1}}}",
                "\\frac{{{2}}}{{{3}}}",
                "{2}/{3}",
                "{0}÷{1}",
                "{0} : {1}",
                "{0}比{1}",
                "({0})/({1})",
                "\\left(\\frac{{{0}}}{{{1}}}\\right)",
                "{{{0} \\over {1}}}",
                "{0}·{1}^{{-1}}",
                "{1}分之{0}",
                "x = {0}/{1}",
                "{0} divided by {1}",
                "{0}/{1} cm",
                "\\frac{{{0}}}{{{1}}}\\text{{ cm}}",
            ),
        ),
    ],
)
SURDS = grammar(
    st.tuples(st.integers(2, 30), st.sampled_from([2, 3, 5, 6, 7, 10, 11, 13, 15])),
    [
        lambda v, form=form: form.format(v[0], v[1], v[0] ** 2 * v[1], 2 * v[0], v[0] * v[1])
        for form in (
            "{0}√{1}",
            "{0}√{{{1}}}",
            "{0}\\sqrt{{{1}}}",
            "{0} \\sqrt {1}",
            "{0}·√{1}",
            "{0} \\times \\sqrt{{{1}}}",
            "{0}\\cdot\\sqrt{{{1}}}",
            "{0} sqrt({1})",
            "{0}根号{1}",
            "{0}倍根号{1}",
            "{0} times the square root of {1}",
            "√{2}",
            "\\sqrt{{{2}}}",
            "{0}·{1}^{{1/2}}",
            "{0}·{1}^0.5",
            "\\frac{{{3}\\sqrt{{{1}}}}}{{2}}",
            "{4}/√{1}",
            "\\frac{{{4}}}{{\\sqrt{{{1}}}}}",
            "AB = {0}√{1} cm",
            "{0}√{1}厘米",
        )
    ],
)
PIS = grammar(
    st.integers(2, 90),
    [
        *fixed(
            "{}π",
            "{}\\pi",
            "{} pi",
            "{}·π",
            "{} \\times \\pi",
            "{}·pi",
            "{}π cm²",
            "{}\\pi\\text{{ cm}}^2",
            "{}π平方厘米",
            "π·{}",
            "S = {}π",
            "The area is {}π",
            "{}0π/10",
        ),
        lambda n: f"\\frac{{{3 * n}\\pi}}{{3}}",
        lambda n: f"{n - 1}π + π",
        lambda n: f"{2 * n}π·\\frac12",
    ],
)
POINTS = grammar(
    st.tuples(st.integers(-30, 30), st.integers(-30, 30)),
    [
        lambda v, form=form: form.format(*v)
        for form in (
            "({0},{1})",
            "({0}, {1})",
            "（{0}，{1}）",
            "( {0} , {1} )",
            "({0}.0, {1})",
            "({0}, {1}.0)",
            "P({0}, {1})",
            "P = ({0}, {1})",
            "\\left({0}, {1}\\right)",
            "x = {0}, y = {1}",
            "The coordinates are ({0}, {1})",
            "(x, y) = ({0}, {1})",
            "点P的坐标为({0}, {1})",
        )
    ],
    ["{0} or {1}", "{0} and {1}", "{1} or {0}", "either {0} or {1}", "not {1} but {0}", "{0}; {1}", "{0} ({1})"],
)
