import json
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpg_vl.verifiers.numbers import Quantity, normalise_quantity, read_integer, same_quantity
from tests.support.shared_data import shared_file


@pytest.mark.parametrize(
    ("text", "value"),
    [("4", 4), (" 12.\n", 12), ("-3", -3), ("+7", 7), ("007", 7), ("9" * 18, 10**18 - 1)],
)
def test_whole_numbers(text: str, value: int) -> None:
    assert read_integer(text) == value


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "4.0", "4 items", "four", "1e3", "nan", "inf", "1_000", "1,000", "--4", "4..", "3 4", "0x4"),
        *("٤", "４", "²", "4\u200b", "\u200b4", "9" * 19, "9" * 5000),
    ],
)
def test_everything_else_is_no_whole_number(text: str) -> None:
    assert read_integer(text) is None


SAME = [
    ("140", "140°"),
    ("140", "140 degrees"),
    ("140", r"140^\circ"),
    ("140", r"$140^{\circ}$"),
    ("140", "140.0"),
    ("4cm", "4"),
    ("4", "4 cm."),
    ("9πcm^{2}", "9π cm²"),
    ("9πcm^2", r"9\pi \text{ cm}^2"),
    ("9cm^2^", "9"),
    ("16π平方米", "16 pi square meters"),
    ("40海里", "40 nautical miles"),
    ("5米", "5 meters"),
    ("5 units", "5 cm"),
    ("5 m", "5 m²"),
    ("3小时", "3 hours"),
    ("3.6秒", r"\frac{18}{5}"),
    ("8√3", "8√{3}"),
    ("8√3", r"8\sqrt{3}"),
    ("8√3", r"$8 \sqrt 3$ m"),
    ("8√3", "8*sqrt(3)"),
    ("8√3", "√192"),
    ("65π", r"65\pi"),
    ("65π", "65 * pi"),
    (r"\frac{√{3}}{2}", "√3/2"),
    (r"\frac{3}{2}√{3}", r"\frac{3√{3}}{2}"),
    (r"\frac{√{2}}{2}", "1/√2"),
    (r"\dfrac{1}{6}π", "π/6"),
    ("2√{2}-2", "-2 + 2√2"),
    ("(√{3}+1)小时", "1+√3"),
    ("2(√3+1)", "2√3+2"),
    ("0.5米", ".5"),
    ("2,400π", "2400π"),
    ("√{9}", "3"),
    ("0", "√5-√5"),
    ("−3", "-3"),
    (r"\boxed{8}", "8"),
    ("b", "(B)"),
    ("B", "B."),
    ("1:2", "1 : 2"),
]


@pytest.mark.parametrize(("left", "right"), SAME)
def test_one_value_in_several_ways(left: str, right: str) -> None:
    assert same_quantity(left, right)
    assert same_quantity(right, left)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("8", "8√3"),
        ("65", "65π"),
        ("√3", "3"),
        ("140", "14"),
        ("140", "1 40"),
        ("12", "1 2"),
        ("1/3", "0.333333"),
        ("13.856", "8√3"),
        ("3.14", "π"),
        ("50", "50%"),
        ("0.5", "50%"),
        ("100000", "1e5"),
        ("8", "８"),
        ("8", "8\u200b"),
        ("8", "8 or 9"),
        ("8", "x=8"),
        ("8", "8 apples"),
        ("4", "2^2"),
        ("A", "B"),
        ("A", "A B"),
        ("5 m", "5 cm"),
        ("5米", "5厘米"),
        (r"5\text{ cm}^2", "5 square meters"),
        ("5√3 km", "5√3 m"),
        ("3秒", "3 min"),
        ("6 m/s", "6 km/h"),
        ("40海里", "40 km"),
        ("2", r"\sqrt[3]{8}"),
        ("1/2", "1/2/1/0"),
    ],
)
def test_different_values(left: str, right: str) -> None:
    assert not same_quantity(left, right)
    assert not same_quantity(right, left)


@pytest.mark.parametrize(
    "text", ["", " ", ".", "$$", "()", "nan", "NaN", "inf", "-inf", "Infinity", r"\infty", "∞", "1" * 513]
)
def test_no_value_equals_nothing(text: str) -> None:
    assert normalise_quantity(text) is None
    assert not same_quantity(text, text)


@pytest.mark.parametrize("text", ["1/0", "√(-1)", "1/(1-1)", "1e999", "9" * 19, "√(10000000)", "((((((((((1))))))))))"])
def test_what_cannot_be_computed_stays_text(text: str) -> None:
    assert isinstance(normalise_quantity(text), str)


def test_at_most_32_terms() -> None:
    roots = [f"√{n}" for n in range(2, 80) if all(n % (d * d) for d in range(2, 9))]
    assert isinstance(normalise_quantity("+".join(roots[:32])), Quantity)
    assert isinstance(normalise_quantity("+".join(roots[:33])), str)
    product = "*".join(["(1+√2)", "(1+√3)", "(1+√5)", "(1+√7)", "(1+√11)"])
    assert isinstance(normalise_quantity(product), Quantity)
    assert isinstance(normalise_quantity(f"{product}*(1+√13)"), str)


def test_value_is_exact_and_readable() -> None:
    assert normalise_quantity("8√3") == Quantity(((3, 0, Fraction(8)),))
    written = {"-6+6√{2}": "-6+6√2", "-√3": "-√3", "π": "π", "0": "0", "1.50": "3/2", "2π*π": "2π^2", "1/π": "π^-1"}
    assert {text: str(normalise_quantity(text)) for text in written} == written


@pytest.mark.parametrize("piece", ["√2+", "(√2+√3)", "√999983+", "(", "√{", "\\frac{", "1/3+", "\\", "9", "π"])
def test_hostile_text_is_fast(piece: str) -> None:
    text = (piece * 512)[:511]
    start = time.process_time()
    normalise_quantity(text)
    normalise_quantity(text + "1")
    assert time.process_time() - start < 0.1


def test_products_of_sums_are_bounded() -> None:
    five = "((1+√2)(1+√3)(1+√5)(1+√7)(1+√11))"
    assert isinstance(normalise_quantity(f"{five}*{five}"), Quantity)
    start = time.process_time()
    assert isinstance(normalise_quantity("*".join([five] * 13)), str)
    assert time.process_time() - start < 0.05


def test_long_text_is_not_read() -> None:
    assert normalise_quantity("1" * 65_536) is None
    assert read_integer("1" * 65_536) is None


@given(st.text(alphabet="0123456789.,+-*/(){}√π\\fracsqtmc °^$ANI", max_size=60))
def test_reading_is_total_and_normal_forms_are_stable(text: str) -> None:
    value = normalise_quantity(text)
    if isinstance(value, Quantity) and "^" not in str(value):
        assert normalise_quantity(str(value)) == value


@given(st.fractions(-(10**9), 10**9, max_denominator=10**6), st.integers(0, 1000))
def test_fractions_and_roots_agree_with_arithmetic(value: Fraction, number: int) -> None:
    assert same_quantity(str(value), f"{value.numerator} / {value.denominator}")
    assert same_quantity(f"√{number}*√{number}", str(number))


def test_every_published_geometry_answer_is_read() -> None:
    path = shared_file("geoqa_test_prompts.jsonl")
    golds = [json.loads(line)["ground_truth"] for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(golds) == 754
    for gold in golds:
        assert isinstance(normalise_quantity(gold), Quantity), gold
        assert same_quantity(gold, f" {gold} "), gold
        assert not same_quantity(gold, f"{gold}1"), gold
