import json
import time
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gpg_vl.verifiers.maths import values
from gpg_vl.verifiers.maths.exact import rational
from gpg_vl.verifiers.maths.expressions import Number
from gpg_vl.verifiers.maths.same_values import Items, Letter, Text, same_value
from gpg_vl.verifiers.maths.values import read_value
from tests.support.clock import slowness
from tests.support.shared_data import shared_file


def same(answer: str, gold: str) -> bool:
    left, right = read_value(answer), read_value(gold)
    return left is not None and right is not None and same_value(left, right)


@pytest.mark.parametrize(
    "text", ["", " ", ".", "$$", "()", "nan", "NaN", "inf", "-inf", "Infinity", r"\infty", "∞", "1" * 1025]
)
def test_no_value_equals_nothing(text: str) -> None:
    assert read_value(text) is None


def test_what_a_text_is() -> None:
    assert read_value("30") == Number(rational(30))
    assert read_value("(b)") == Letter("B")
    assert isinstance(read_value("(1, 2)"), Items)
    assert read_value("AB ∥ CD") == Text("AB∥CD")


@pytest.mark.parametrize(
    "text", ["1/0", "√(-1)", "1/(1-1)", "1e999", "9" * 41, "((((((((((1))))))))))", "9^9^9", "9^999", "0^0", "0^-1"]
)
def test_what_cannot_be_computed_stays_text(text: str) -> None:
    assert isinstance(read_value(text), Text)


LONG_TEXTS = [
    "*".join(["(1+√2)(1+√3)(1+√5)(1+√7)(1+√11)"] * 13),
    "*".join(f"√{n}" for n in (999_983, 999_979, 999_961, 999_959, 999_953, 999_931, 999_917, 999_907) * 7),
    "1/(" + "+".join(f"√{n}" for n in (2, 3, 5, 7, 11, 13)) + ")",
    "/".join(["1"] + ["123456789123456789"] * 25),
    "*".join(["123456789123456789π"] * 25),
    "(" * 250 + "1" + ")" * 250,
    "√(1+" * 100 + "1" + ")" * 100,
    "√(2+√(2+√(2+√(2+√(2+√2)))))",
    "(1+√2+√3+√5)^12",
    "(x+y+z+a+b+c)^12",
    "((1+√2)^9+√3)^9",
    "9^9^9^9",
    "2^(1/59)+3^(1/58)+5^(1/57)",
    "+".join(f"√{n}" for n in range(9_999_900, 9_999_960)),
    "sin 1°+" * 60 + "1",
    "0." + "3" * 400 + "…",
    "1 1/2 " * 80,
    "1," * 250,
    "x=" * 250,
    "≈" * 500,
    "{" * 500,
    "^" * 500,
    "\\frac" * 100,
    "\\frac{1}{" * 50 + "2" + "}" * 50,
]


@pytest.mark.parametrize("text", LONG_TEXTS, ids=lambda text: text[:20])
def test_every_text_is_read_and_compared_at_once(text: str) -> None:
    gold = read_value("9√2π+1/(1+π)")
    assert gold is not None
    times = []
    for spaces in range(3):  # another text each time, so that none is remembered
        start = time.process_time()
        value = read_value(text[: 512 - spaces] + " " * spaces)
        assert value is None or not same_value(value, gold)
        times.append(time.process_time() - start)
    assert min(times) < 0.05 * slowness()


@given(st.text(alphabet="0123456789.,+-*/(){}√π\\fracsqtmc °^$ANI=:x½²", max_size=60))
def test_reading_is_total_and_a_value_equals_itself(text: str) -> None:
    value = read_value(text)
    if value is not None and "=" not in text:
        assert same_value(value, value)


@given(st.fractions(-(10**9), 10**9, max_denominator=10**6), st.integers(0, 1000))
def test_fractions_and_roots_agree_with_arithmetic(value: Fraction, number: int) -> None:
    assert same(str(value), f"{value.numerator} / {value.denominator}")
    assert same(f"√{number}*√{number}", str(number))


def test_every_published_geometry_answer_is_read() -> None:
    path = shared_file("geoqa_test_prompts.jsonl")
    golds = [json.loads(line)["ground_truth"] for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(golds) == 754
    for gold in golds:
        assert isinstance(read_value(gold), Number), gold
        assert same(f" {gold} ", gold), gold
        assert same(f"**{gold}**", gold), gold
        assert same(f"The answer is {gold}.", gold), gold
        assert not same(f"{gold}1", gold), gold
        assert not same(f"{gold} or 7919", gold), gold


QUICK_UNITS = [
    "",
    "°",
    " cm",
    "m²",
    "h",
    " g",
    "g",
    "l",
    " L",
    "%",
    " degrees",
    "厘米",
    " x",
    "π",
    "√2",
    "个",
    " in.",
    "'",
]
PLACES = ["", ".5", ".25", ".333", ".12345678"]


@given(
    st.integers(-(10**8) + 1, 10**8 - 1),
    st.sampled_from(PLACES),
    st.sampled_from(QUICK_UNITS),
)
def test_the_quick_way_reads_what_the_grammar_reads(whole: int, places: str, unit: str) -> None:
    found = values._read_quantity(f"{whole}{places}{unit}")
    if found is not None:
        assert found == values._read_sentence(f"{whole}{places}{unit}")
    assert values._read_quantity("30 cm") == values._read_sentence("30 cm") == read_value("30 cm")


FIRST_WORDS = [
    *sorted(values.FIRST_WORDS),
    *["a", "half", "the cube root of", "xroot of", "xcube root of", "beet", "the"],
]
LAST_WORDS = [
    "",
    " x",
    " 3",
    " degrees",
    " thirds",
    " and a half",
    " of y",
    "-one",
    " percent",
    " squared",
    " root of x",
]


@given(st.sampled_from(FIRST_WORDS), st.sampled_from(LAST_WORDS))
@example("thirty", "")
@example("xroot of", " x")
@example("ab", " - 2")
def test_what_is_told_to_be_prose_is_no_number(first: str, last: str) -> None:
    """Mutations that must fail: a number's word, minus, alpha or sqrt counts as prose, or what ends in root."""
    text = first + last
    assert not values._is_prose(text) or values._read_in_full(text) is None
    assert values._is_prose("left of the table") and values._is_prose("Boeing 737-800")
