"""What follows a number is a unit of its own spelling, or the answer is none."""

from __future__ import annotations

import pytest

from gpg_vl.verifiers.maths.same_values import same_value
from gpg_vl.verifiers.maths.units import read_unit
from gpg_vl.verifiers.maths.values import read_value


def same(answer: str, gold: str) -> bool:
    left, right = read_value(answer), read_value(gold)
    return left is not None and right is not None and same_value(left, right)


@pytest.mark.parametrize(
    "text",
    ["..", "^", "^{}", "{}", "}", "{", "\\", "-", "/", "cm^", "cm^{}", "cm}", "{cm", "cm..", "cm 2", "cm^4", "M", "Mm"],
)
def test_what_dangles_is_no_unit(text: str) -> None:
    assert read_unit(text) is None
    assert not same(f"5{text}", "5")
    assert not same(f"5 {text}", "5")
    assert not same(f"5{text}", "5 m")


@pytest.mark.parametrize("text", ["cm^{2}", "cm ^2", "cm²", "sq. cm", "{cm}^2", "{\\text{cm}}^2", "cm^2^", "[cm2]"])
def test_the_spellings_of_one_area(text: str) -> None:
    assert same(f"5 {text}", "5 cm²")
    assert not same(f"5 {text}", "5 cm")


@pytest.mark.parametrize("sign", ["$", "€", "£", " usd", "°C", "℃", "°F", "^\\circ F", " degrees Celsius", "倍", "次"])
def test_money_temperatures_and_multiples_are_asked_for(sign: str) -> None:
    assert not same(f"5{sign}", "5")
    assert not same(f"5{sign}", "5°")
    assert not same(f"5{sign}", "5 m")
    assert same(f"5{sign}", f"5 {sign.strip()}")


ALIKE = {
    "5 years": ["60 months", "5年"],
    "5 cups": ["2.5 pints"],
    "5 kJ": ["5000 joules"],
    "$5": ["5 dollars", "500 cents", "US$5", "$5.00", "5"],
    "$1,200": ["1200 dollars", "$1200", "1,200"],
    "5元": ["¥5", "50角"],
}
UNLIKE = {
    "5 years": ["5 months", "5 days"],
    "5 cups": ["5 pints", "5 quarts"],
    "5 kJ": ["5 joules", "5 kW"],
    "$5": ["5 cents", "5 euros", "€5", "5 yuan", "5 cm", "5%"],
    "5元": ["5角", "$5"],
    "5倍": ["5次"],
    "2亩": ["2公顷", "2 m²"],
    "5 km/year": ["5 km/month"],
}


@pytest.mark.parametrize(("gold", "answer"), [(gold, answer) for gold in ALIKE for answer in ALIKE[gold]])
def test_the_same_size_in_another_unit(gold: str, answer: str) -> None:
    assert same(answer, gold)


@pytest.mark.parametrize(("gold", "answer"), [(gold, answer) for gold in UNLIKE for answer in UNLIKE[gold]])
def test_two_units_of_one_kind_are_not_one(gold: str, answer: str) -> None:
    """Mutation that must fail: units without a size."""
    assert not same(answer, gold)


def test_a_unit_of_the_gold_answer_may_be_left_out_and_another_scale_is_wrong() -> None:
    assert same("5", "5°C") and same("5℃", "5 °C") and same("5", "5倍") and same("5$", "5 dollars")
    assert not same("5°F", "5°C") and not same("5°", "5°C") and not same("5°C", "5°")


MARKED = {
    "6 ft": ["6'", "6′", '72"', "6 '", "6^{\\prime}", "6'0\""],
    "70 in": ["5'10\"", "5' 10\"", "5′10″", "5'10''", '70"'],
    "30°": ["1800'", "1800′", '108000"', "30°0'"],
    "6'": ["6 ft", "6", "6'", "6′"],
    "2.5'": ["2.5'", "30 in"],
}


@pytest.mark.parametrize(("gold", "answer"), [(gold, answer) for gold in MARKED for answer in MARKED[gold]])
def test_the_other_unit_tells_feet_from_minutes(gold: str, answer: str) -> None:
    assert same(answer, gold)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        *[
            ("6'", "6"),
            ('6"', "6"),
            ("6'", "6 m"),
            ("6'", "6°"),
            ('6"', "6 ft"),
            ("6'", '6"'),
            ('72"', "72"),
            ("6'", "6 s"),
        ],
        *[
            ("30'", "30°"),
            ("30'", "30"),
            ("5'14\"", "74 in"),
            ("6'", "6 cm²"),
            ("5'10\"", "5.1"),
            ("6'2", "6 ft"),
            ("'6", "6 ft"),
        ],
        *[("6' '", "6 ft"), ("6' or 7'", "6 ft"), ("1800'", "1800"), ("1800'", "30"), ("1'30\"", "1.5°")],
    ],
)
def test_a_mark_beside_no_such_unit_is_wrong(answer: str, gold: str) -> None:
    assert not same(answer, gold)


@pytest.mark.parametrize(
    "text",
    ["~5", "5~", "≈5", "约5", "5 (approx.)", "5 (est.)", "5 (rounded)", "5 (maximum)", "when x = 5", "当x=5", "若x=5"],
)
def test_about_and_conditions_are_no_value(text: str) -> None:
    assert not same(text, "5")


@pytest.mark.parametrize(
    ("answer", "gold", "is_right"),
    [
        ("50%", "50", True),
        ("50%", "0.5", True),
        ("0.5%", "0.5", False),
        ("3/2%", "3/2", False),
        ("150%", "3/2", True),
        ("1%", "1", False),
        ("100%", "1", True),
        ("300%", "3", False),
        ("12.5", "12.5%", True),
        ("1/8", "12.5%", True),
        ("12.5%", "12.5", False),
        ("145%", "145°", False),
    ],
)
def test_percent_is_a_share_or_what_was_asked_for(answer: str, gold: str, is_right: bool) -> None:
    assert same(answer, gold) == is_right
