import pytest

from gpg_vl.verifiers.choices import find_options, read_choice, row_options
from tests.support.messages import naming


@pytest.mark.parametrize("answer", ["B", "b", "(B)", "(b).", "B.", "B)", "right", " Right. ", "B. right", "(B) right"])
def test_letter_or_text(answer: str) -> None:
    assert read_choice(answer, ["left", "right"]) == "right"


@pytest.mark.parametrize(
    "answer", ["", "C", "left or right", "A. right", "A B", "AB", "a lot", "rights", "１", "\u200bB", "B" * 600]
)
def test_no_choice(answer: str) -> None:
    assert read_choice(answer, ["left", "right"]) is None


def test_text_goes_before_the_letter() -> None:
    assert read_choice("A", ["B", "A"]) == "a"
    assert read_choice("(A)", ["B", "A"]) == "b"


def test_options_with_the_same_text_are_told_by_nothing() -> None:
    assert read_choice("same", ["same", "same"]) is None
    assert read_choice("A", ["same", "same"]) is None


def test_without_options_the_text_stands() -> None:
    assert read_choice("To the LEFT.", []) == "to the left"
    assert read_choice("(C)", []) == read_choice("c", []) == "c"


@pytest.mark.parametrize(
    ("question", "options"),
    [
        ("Which is closer? (A) chair (B) table", ["chair", "table"]),
        ("Select from the following choices.\n(A) above\n(B) below\nAnswer with one.", ["above", "below"]),
        ("A. 30° B. 40° C. 50°", ["30°", "40°", "50°"]),
        ("Where is it? A. left B. right. Answer with the letter.", ["left", "right"]),
        ("(A) 4 m (B) 5 m. Choose one", ["4 m", "5 m"]),
        ("Is it A. left B. right? Answer.", ["left", "right"]),
        ("(A) Mr. Smith (B) St. John", ["Mr. Smith", "St. John"]),
        ("(A) It is red. It is big. (B) It is red. It is small.", ["It is red. It is big.", "It is red. It is small."]),
        ("(A) 1.5 (B) 2.5", ["1.5", "2.5"]),
        ("What is angle A?", []),
        ("(B) first", []),
        ("(A) alone", []),
    ],
)
def test_lettered_options(question: str, options: list[str]) -> None:
    assert find_options(question) == options


def test_options_of_the_row() -> None:
    assert row_options({"options": ["x", 2]}, "(A) a (B) b") == ["x", "2"]
    assert row_options({"choices": '["x", "y"]'}, "") == ["x", "y"]
    assert row_options({}, "(A) a (B) b") == ["a", "b"]
    assert row_options({"options": {"A": "left", "B": "right"}}, "") == ["left", "right"]
    assert row_options({"options": '{"b": "right", "a": 4}'}, "") == ["4", "right"]
    for keys in (["A", "C"], ["left", "right"], ["A", "a"]):
        with pytest.raises(ValueError, match=naming("A, B, C")):
            row_options({"options": dict.fromkeys(keys, "x")}, "")
    for wrong in ("x, y", 3, "{}", '"xy"'):
        with pytest.raises(ValueError, match=naming("options")):
            row_options({"options": wrong}, "")
