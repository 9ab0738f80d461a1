import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpg_vl.verifiers.sentences import changes_value, drop_lead, readings
from gpg_vl.verifiers.unwrap import MAX_WRAPPERS, normalise_glyphs, unwrap
from tests.support.clock import takes_less_than

WRAPPERS = [
    *("**{}**", "__{}__", "*{}*", "`{}`", '"{}"', "'{}'", "“{}”", "「{}」", "${}$", "$${}$$", "\\({}\\)", "\\[{}\\]"),
    *(
        "\\boxed{{{}}}",
        "\\text{{{}}}",
        "\\textbf{{{}}}",
        "\\mathrm{{{}}}",
        "```\n{}\n```",
        "```json\n{}\n```",
        "{}.",
        "{}。",
    ),
    *("\\displaystyle {}", "{}\\quad", " {}\n", "<|begin_of_box|>{}<|end_of_box|>", "\\fbox{{{}}}"),
]


@given(st.lists(st.sampled_from(WRAPPERS), max_size=4), st.sampled_from(["x", "left", "5 cm", "(1, 2)", "a}b{c"]))
def test_wrappers_come_off_one_at_a_time(wrappers: list[str], content: str) -> None:
    text = content
    for number, wrapper in enumerate(wrappers):
        if "{}" in wrapper and wrapper in wrappers[:number]:
            continue  # **x** in **: two of a kind are another wrapper
        text = wrapper.format(text)
    opened = sum(text.count(mark) for mark in ("*", "_", "`", '"', "'", "$"))
    if "a}b{c" not in text and opened <= 6:
        assert content in unwrap(text)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_wrapper_alone_and_in_bold(wrapper: str) -> None:
    assert unwrap(wrapper.format("left")) == "left"
    if "*" not in wrapper:
        assert unwrap(f"**{wrapper.format('left')}**") == "left"


@pytest.mark.parametrize(
    "text",
    [
        '"a" or "b"',
        "$a$ or $b$",
        "**a** and **b**",
        "\\boxed{a} or \\boxed{b}",
        "'a', 'b'",
        "`a``b`",
        "a..",
        "3,",
        "4!",
        "\\text{a} \\text{b}",
        "{a}",
        "(a)",
    ],
)
def test_what_holds_two_things_or_none_stays(text: str) -> None:
    assert unwrap(text) == text


def test_at_most_eight_wrappers() -> None:
    nested = "\\boxed{" * (MAX_WRAPPERS + 1) + "x" + "}" * (MAX_WRAPPERS + 1)
    assert unwrap(nested) == "\\boxed{x}"


def test_glyphs() -> None:
    assert normalise_glyphs("（Ａ）　−３０％") == "(A) -30%"
    assert normalise_glyphs("３0") == "３0"
    assert normalise_glyphs("٣٠") == "٣٠"
    assert normalise_glyphs("4\u200b") == "4\u200b"


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("Answer: 30", "30"),
        ("The final answer is 30", "30"),
        ("**Answer:** 30", "30"),
        ("The measure of angle A is 30", "30"),
        ("Therefore, x", "x"),
        ("It is right", "right"),
        ("There are 4", "4"),
        ("角A等于30度", "30度"),
        ("答案:B", "B"),
        ("故选:B", "B"),
        ("The answer is not 30", "not 30"),
        ("The answer isn't 30", None),
        ("Twice the answer is 30", None),
        ("One of them is 30", "30"),
        ("Two of them are 30", None),
        ("The wrong answer is 30", None),
        ("角A不是30度", None),
        ("30 is it", None),
        ("x" * 500 + " is 30", None),
    ],
)
def test_the_beginning_of_a_sentence(text: str, rest: str | None) -> None:
    assert drop_lead(text) == rest


def test_a_sentence_that_begins_with_another_value() -> None:
    assert drop_lead("The left is right", ("left", "right")) is None
    assert list(readings("So the answer is **B**.")) == ["So the answer is **B**", "B"]
    assert changes_value("at least")
    assert not changes_value("the angle")


@pytest.mark.parametrize(
    "piece",
    [
        "**",
        "\\boxed{",
        "$",
        "```",
        "the ",
        "is ",
        "The answer is ",
        '"',
        "'",
        "\\(",
        "}",
        "。",
        "　",
        "是",
        "\\quad",
        "<b>",
    ],
)
def test_hostile_text_is_fast(piece: str) -> None:
    text = (piece * 65_000)[:65_000]

    def read() -> None:
        list(readings(text))
        list(readings(text + "}" * 20))

    assert takes_less_than(0.05, read)
