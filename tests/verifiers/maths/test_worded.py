"""Numbers in words, in two units, with their letter behind them, and in two spellings."""

from __future__ import annotations

import pytest

from gpg_vl.verifiers.maths.same_values import same_value
from gpg_vl.verifiers.maths.values import read_value
from gpg_vl.verifiers.maths.worded import read_worded

SAME = {
    "3/2": ["3/2 or 1.5", "three halves", "one and a half", "{3 \\over 2}", "$\\frac{3}{2}$ or $1.5$", "1又二分之一"],
    "8": ["DE = EF = 8", "x = y = 8"],
    "30°": [
        "∠1 = ∠2 = 30°",
        "180°-150° = 30°",
        "60°/2",
        "90°-60°",
        "90^\\circ - 60^\\circ",
        "30゜",
        "三十度",
        "30° (A)",
    ],
    "-2": ["minus 2", "negative 2", "负2"],
    "2/3": ["two thirds", "三分之二", "66.6666666667%", "two-thirds"],
    "3/4": ["three fourths", "three quarters"],
    "1/2": ["百分之五十", "1比2", "one half", "a half"],
    "5√2": ["5倍根号2", "5\\surd2"],
    "(2,-3)": [
        "x=2, y=-3",
        "x = 2 and y = -3",
        "So the answer is x = 2, y = -3",
        "We get x=2, y=-3",
        "答案是x = 2, y = -3",
    ],
    "x = 7, y = 8": ["(7, 8)", "x=7, y=8"],
    "(0,1]": ["x∈(0,1]", "x \\in (0, 1]"],
    "7/2": ["7/2 (3.5)", "3.5 (7/2)", "√49/2 (3.5)", "7/2 cm (3.5 cm)", "3 1/2 (3.5)"],
    "7√2": ["7√2 (≈ 9.899)", "√98 (approximately 9.9)", "7\\sqrt{2} (\\approx 9.90)"],
    "24 cm": ["2 dm 4 cm", "24 cm (2.4 dm)", "2dm4cm", "2分米4厘米"],
    "150 min": ["2 h 30 min", "2小时30分钟"],
}


@pytest.mark.parametrize(("gold", "answer"), [(gold, answer) for gold in SAME for answer in SAME[gold]])
def test_a_spelling_has_its_own_value_and_no_other(gold: str, answer: str) -> None:
    value = read_value(answer)
    assert value is not None
    for other in SAME:
        right = read_value(other)
        assert right is not None
        assert same_value(value, right) == (other == gold), other


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("3/2 or 1.6", "3/2"),
        ("3/2 or 1.5 or 2", "3/2"),
        ("DE = 8 = EF = 9", "8"),
        ("DE = 7 = 8", "8"),
        ("90°-60", "30"),
        ("180°-150° = 40°", "40°"),
        ("one and three halves", "5/2"),
        ("x=-3, y=2", "(2,-3)"),
        ("(2,-3)", "x=-3, y=2"),
        ("[2,-3]", "x=2, y=-3"),
        ("y=2, x=-3", "(2,-3)"),
        ("a=2, b=-3", "(2,-3)"),
        ("x=2, y=-3", "[2,-3]"),
        ("2 dm 14 cm", "34 cm"),
        ("4 cm 2 dm", "24 cm"),
        ("2 dm 4 g", "24 cm"),
        ("2 dm 4", "24 cm"),
        ("66.67%", "2/3"),
        ("30° (A) or 40° (B)", "30°"),
        ("30° (A)", "B"),
        ("三分之二个半", "2/3"),
        ("3/2 (1.6)", "3/2"),
        ("3/2 (1.5)", "9/4"),
        ("3/2 (1.5) (1.6)", "3/2"),
        ("30 (60)", "30"),
        ("2 (1+1)", "2"),
        ("5 m (5 cm)", "5 m"),
        ("7√2 (≈ 9.7)", "7√2"),
        ("7√2 (≈ 9.899)", "9.899"),
        ("7 (≈ 9.899)", "7"),
        ("三角", "3"),
        ("二分之三又", "3/2"),
        ("第三", "3"),
    ],
)
def test_near_them_stands_another_value_or_none(answer: str, gold: str) -> None:
    value, right = read_value(answer), read_value(gold)
    assert right is not None
    assert value is None or not same_value(value, right)


@pytest.mark.parametrize(
    "text", ["halves", "third", "two third one", "三分之", "分之二", "百分之", "", "1 m 2", "x" * 500]
)
def test_what_is_no_number_in_words(text: str) -> None:
    assert read_worded(text) is None
