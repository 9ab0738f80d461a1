import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpg_vl.tasks.choice import is_same_choice
from gpg_vl.verifiers import choices
from gpg_vl.verifiers.choices import Chosen, read_choice, read_gold
from tests.support.clock import takes_less_than

SIDES = ["left", "right"]
NUMBERS = ["30°", "45°", "$2\\sqrt{3}$", "-3"]


def index_of(answer: str, options: list[str]) -> int | None:
    found = read_choice(answer, options)
    return found.index if isinstance(found, Chosen) else None


@pytest.mark.parametrize(
    "answer",
    [
        *(
            "B",
            "b",
            "(B)",
            "(b).",
            "B.",
            "B)",
            "[B]",
            "【B】",
            "B、",
            "B,",
            "B。",
            "'B'",
            "**(B)**",
            "\\boxed{B}",
            "\\text{B}",
        ),
        *("right", " Right. ", "RIGHT", '"right"', "*right*", "**Right**.", "The right", "right;", "right。"),
        *(
            "B. right",
            "(B) right",
            "B: right",
            "B, right",
            "B - right",
            "B\nright",
            "B.right",
            "B. **right**",
            "B．right",
        ),
        *(
            "Option B",
            "Option B: right",
            "right (B)",
            "The answer is B",
            "Answer: (B) right",
            "The correct option is (B).",
        ),
        *("选B", "答案：B", "B选项", "The answer is right.", "It is right.", "I choose B", "So the answer is B."),
        *("right, the chair is on that side", "Ｂ", "$\\boxed{\\text{B}}$", "The chair is right."),
    ],
)
def test_letter_or_text(answer: str) -> None:
    assert index_of(answer, SIDES) == 1


@pytest.mark.parametrize(
    "answer",
    [
        *("", "C", "left or right", "A. right", "A: right", "A B", "AB", "a lot", "rights", "１", "\u200bB", "B" * 600),
        *("A and B", "A, B", "B or A", "not B", "not right", "neither", "A. B", "R", "It is not right.", "left, right"),
        *("right, but maybe left is better", "right (A)", "Ｂ\u200b", "В", "The left is right", "either B", "B, not A"),
        *("right, it is not that side", "Yes, right or left", "B?A"),
    ],
)
def test_no_choice(answer: str) -> None:
    assert index_of(answer, SIDES) is None


@pytest.mark.parametrize(
    ("answer", "index"),
    [
        ("45", 1),
        ("45 degrees", 1),
        ("B. $45^\\circ$", 1),
        ("(B) 45", 1),
        ("2√3", 2),
        ("\\boxed{2\\sqrt{3}}", 2),
        ("√12", 2),
        ("−3", 3),
        ("(D) $-3$", 3),
        ("3", None),
        ("A. 45°", None),
        ("90", None),
        ("45 or 30", None),
    ],
)
def test_the_value_of_an_option_in_another_spelling(answer: str, index: int | None) -> None:
    assert index_of(answer, NUMBERS) == index


@pytest.mark.parametrize(
    ("options", "answer", "index"),
    [
        (["Gg", "gg"], "gg", 1),
        (["Gg", "gg"], "B. gg", 1),
        (["Gg", "gg"], "GG", None),
        (["m", "M"], "m", 0),
        (["m", "M"], "(A) m", 0),
        (["5", ".5"], "5.", 0),
        (["5", ".5"], ".5", 1),
        (["5'", '5"'], "A", 0),
        (["5'", '5"'], '5"', 1),
        (["the table", "a chair"], "chair", 1),
        (["table", "chair"], "A chair", 1),
        (["red, green", "blue"], "red and green", 0),
        (["red, green", "blue"], "red, blue", None),
        (["yes", "no"], "yes, the chair is closer", 0),
        (["yes", "no"], "Yes, no", None),
        (["2 meters", "3 meters"], "A. 2", 0),
        (["1/2", "0.5"], "0.5", 1),
        (["1/2", "0.5"], "2/4", None),
        ([f"o{n}" for n in range(26)], "Z", 25),
        (["same", "same"], "same", None),
        (["B", "A"], "(A)", 0),
        (["B", "A"], "A", 1),
    ],
)
def test_options_that_are_alike(options: list[str], answer: str, index: int | None) -> None:
    assert index_of(answer, options) == index


def test_a_gold_letter_is_a_letter() -> None:
    assert read_gold("A", ["B", "A"]) == Chosen(0, "A")
    assert read_gold("right", SIDES) == Chosen(1)
    assert read_gold("up", SIDES) is None


def test_without_options_the_text_stands() -> None:
    assert read_choice("To the LEFT.", []) == "to the left"
    assert read_choice("(C)", []) == read_choice("c", []) == read_choice("The answer is C.", []) == "c"
    assert read_choice("C. up", []) == "c. up"
    assert read_choice("left", []) != read_choice("not left", [])


@pytest.mark.parametrize("piece", ["B. ", "the ", "right, ", "(", "is ", "選", "**", "a "])
def test_hostile_text_is_fast(piece: str) -> None:
    text = (piece * 512)[:512]
    assert takes_less_than(0.05, lambda: (read_choice(text, SIDES), read_choice(text, [])))


@pytest.mark.parametrize(
    "answer", ["dog?", "B?", "dog, the cat is closer", "dog, the cat has four legs", "dog, is it?"]
)
def test_a_question_or_a_clause_with_another_option_is_no_choice(answer: str) -> None:
    assert index_of(answer, ["a cat", "a dog"]) is None


def test_a_question_mark_belongs_to_the_option_that_ends_a_question() -> None:
    options = ["above it", "below it?"]
    assert index_of("below it", options) == index_of("below it?", options) == 1
    assert index_of("above it?", options) is None


def test_a_bold_letter_before_its_text() -> None:
    for answer in ("**B**. right", "**B.** right", "**(B)** right", "**B** right"):
        assert index_of(answer, SIDES) == 1
    assert index_of("**A**. right", SIDES) is None


def test_a_separator_of_thousands_in_an_option() -> None:
    options = ["100", "1,000", "10,000"]
    assert index_of("1000", options) == index_of("1,000", options) == 1
    assert index_of("1.000", options) is index_of("10", options) is None


def test_braces_and_a_short_yes() -> None:
    assert index_of("{B}", SIDES) == 1
    assert index_of("Yes, it is.", ["Yes", "No"]) == index_of("yes, they are", ["Yes", "No"]) == 0
    assert index_of("No, it is.", ["Yes", "No"]) is None


@pytest.mark.parametrize("answer", ["B. left", "B.left", "B、left", "B. right or left", "B. A", "B: left", "(B) left"])
def test_without_options_a_letter_with_a_text_is_not_the_letter(answer: str) -> None:
    assert not is_same_choice(read_choice(answer, []) or "", read_gold("B", []))


def test_without_options_an_article_tells_nothing() -> None:
    assert read_choice("the right", []) == read_choice("Right.", [])
    assert read_choice("right?", []) != read_choice("right", [])
    assert is_same_choice(read_choice("B. right", []) or "", read_gold("B. right", []))


OPTIONS = [
    "left",
    "Right.",
    "B",
    "(a)",
    "the c",
    "a",
    "30°",
    "45",
    "$6$",
    "two words",
    "b, c",
    "option B",
    "St. John",
    "",
]


@settings(max_examples=100)
@given(
    st.lists(st.sampled_from(OPTIONS) | st.text("ABab(). 1", max_size=4), min_size=1, max_size=5),
    st.text("ABab(). ", max_size=4),
)
def test_a_letter_and_an_options_text_are_read_sooner_as_the_same(options: list[str], other: str) -> None:
    """Mutations that must fail: letters count where an option is one, texts that two options share, texts in marks; a
    number ends no option; the letter of "option b" ends none.
    """
    table = choices._tabulate(tuple(options))
    plain = choices._plain_answers(table)
    for answer in [other, *options, *(f"{first} {second}" for first in options for second in (*options, other))]:
        assert not choices._is_other(table, answer) or choices._read_in_full(table, answer) is None
    letters = [form.format(letter) for letter in "ABCDEFabcdef" for form in ("{}", "({})", "{}.")]
    for answer in [*letters, *options, other]:
        assert plain.get(answer) in (None, choices._read_among(table, answer))
    assert {"A", "b", "(B)"} <= choices._plain_answers(choices._tabulate(("left", "right"))).keys()
