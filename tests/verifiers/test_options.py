import pytest

from gpg_vl.verifiers.options import LETTERS, find_options, row_options
from tests.support.clock import holds_for_seconds, is_below
from tests.support.messages import naming


@pytest.mark.parametrize(
    ("question", "options"),
    [
        ("Which is closer? (A) chair (B) table", ("chair", "table")),
        ("Select from the following choices.\n(A) above\n(B) below\nAnswer with one.", ("above", "below")),
        ("A. 30° B. 40° C. 50°", ("30°", "40°", "50°")),
        ("Where is it? A. left B. right. Answer with the letter.", ("left", "right")),
        ("(A) 4 m (B) 5 m. Choose one", ("4 m", "5 m")),
        ("Is it A. left B. right? Answer.", ("left", "right")),
        ("(A) Mr. Smith (B) St. John", ("Mr. Smith", "St. John")),
        ("(A) It is red. It is big. (B) It is red. It is small.", ("It is red. It is big.", "It is red. It is small.")),
        ("(A) 1.5 (B) 2.5", ("1.5", "2.5")),
        ("What is angle A?", ()),
        ("(B) first", ()),
        ("(A) alone", ()),
        ("Where is the chair? (a) left (b) right", ("left", "right")),
        ("如图，∠A的度数是（ ） A、30° B、40° C、50° D、60°", ("30°", "40°", "50°", "60°")),
        ("∠A是（ ）\nA．30°\u3000B．40°\u3000C．50°", ("30°", "40°", "50°")),
        ("选择\n（A）左\n（B）右", ("左", "右")),
        ("Where is it?\n[A] left\n[B] right", ("left", "right")),
        ("Where is it?\nOptions:\nA left\nB right", ("left", "right")),
        ("Where is it?\na) left\nb) right", ("left", "right")),
        ("As shown, find x.\nChoices:\nA:30\nB:45\nC:60", ("30", "45", "60")),
        ("e.g., A, B, C, D, at the end.\nChoices:\n(A) left\n(B) right", ("left", "right")),
        ("See point A. And point B. Which? (A) point A. (B) point B.", ("point A.", "point B.")),
        ("(A) or (B)? Choose. (A) left (B) right", ("left", "right")),
        ("Find angle A. Angle B. is 30°.\nChoices:\n(A) 30°\n(B) 45°", ("30°", "45°")),
        (
            "(A) to the left, (B) to the right, (C) above it, or (D) below it?",
            ("to the left", "to the right", "above it", "below it?"),
        ),
        ("Where?\n**A.** left\n**B.** right", ("left", "right")),
        ("Where? **A** left\n**B** right", ("left", "right")),
        ("Where? <A> left <B> right", ("left", "right")),
        ("Where? {A} left\n{B} right", ("left", "right")),
        ("Where?\nA - left\nB - right", ("left", "right")),
        ("在哪里？A. 左 B. 右", ("左", "右")),
        ("已知点A、点B、点C在圆上", ()),
        (" ".join(f"({letter}) o{letter}" for letter in LETTERS), tuple(f"o{letter}" for letter in LETTERS)),
    ],
)
def test_lettered_options(question: str, options: tuple[str, ...]) -> None:
    assert find_options(question) == options


def test_options_of_the_row() -> None:
    assert row_options({"options": ["x", 2]}, "(A) a (B) b") == ["x", "2"]
    assert row_options({"choices": '["x", "y"]'}, "") == ["x", "y"]
    assert row_options({}, "(A) a (B) b") == ["a", "b"]
    assert row_options({"options": {"A": "left", "B": "right"}}, "") == ["left", "right"]
    assert row_options({"options": '{"b": "right", "a": 4}'}, "") == ["4", "right"]
    assert row_options({"options": ["A. left", "B. right"]}, "") == ["left", "right"]
    assert row_options({"options": ["(A) 1.5", "(B) 2"]}, "") == ["1.5", "2"]
    assert row_options({"options": ["a) left", "b) right"]}, "") == ["left", "right"]
    for kept in (["B. left", "A. right"], ["A. left", "right"], ["A. x", "B. x"], ["A.", "B."], ["A. alone"]):
        assert row_options({"options": kept}, "") == kept
    for keys in (["A", "C"], ["left", "right"], ["A", "a"]):
        with pytest.raises(ValueError, match=naming("options", "A, B, C")):
            row_options({"options": dict.fromkeys(keys, "x")}, "")
    for wrong in ("x, y", 3, "{}", '"xy"', ["x", None], [["x"], "y"], [{"label": "A", "text": "x"}, "y"], {"A": None}):
        with pytest.raises(ValueError, match=naming("options")):
            row_options({"options": wrong}, "")


@pytest.mark.parametrize(
    "piece", ["(A) x (B) y ", "A. ", "(A) ", "\nA ", "(", "[A", "word ", ". A", "? Is it A. or B. "]
)
def test_time_grows_no_faster_than_the_question(piece: str) -> None:
    assert holds_for_seconds(
        lambda half, whole: is_below(whole, 0.1) and whole <= 2.5 * half + 0.005,
        (32_000, 64_000),
        lambda length: find_options((piece * length)[:length]),
    )
