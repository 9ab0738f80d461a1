from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpg_vl.verifiers.answers import (
    MAX_CHARS,
    _read_any,
    find_answer,
    has_think_answer_format,
    read_completion,
    strip_answer_tags,
    write_answer,
)
from tests.support.clock import takes_less_than
from tests.support.messages import naming


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>4</answer>", "4"),
        ("<think>a</think><answer> 4\n</answer>", "4"),
        ("so <answer>4</answer> it is", "4"),
        ("<think>first <answer>3</answer>?</think><answer>4</answer>", "4"),
        ("<think>a</think><think>b</think><answer>4</answer>", "4"),
        ("<answer>\u0664</answer>", "\u0664"),
        ("<think>4</think>", None),
        ("4", None),
        ("", None),
        ("<answer></answer>", None),
        ("<answer> \n </answer>", None),
        ("<answer>4", None),
        ("4</answer>", None),
        ("</answer>4<answer>", None),
        ("<answer>4</answer><answer>4</answer>", None),
        ("<answer><answer>4</answer>", None),
        ("<answer>4</answer></answer>", None),
        ("<answer>4</answer><think>4</think>", None),
        ("<ANSWER>4</ANSWER>", None),
    ],
)
def test_one_complete_answer_after_the_reasoning(text: str, answer: str | None) -> None:
    assert find_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "is_format"),
    [
        ("<think>a</think><answer>4</answer>", True),
        (" <think></think>\n\n<answer>4</answer>\n", True),
        ("<think>a</think><answer> </answer>", False),
        ("<think>a</think> so <answer>4</answer>", False),
        ("<think>a</think><answer>4</answer>.", False),
        ("x<think>a</think><answer>4</answer>", False),
        ("<think>a<answer>4</answer>", False),
        ("<answer>4</answer>", False),
        ("<answer>4</answer><think>a</think>", False),
        ("<think>a<answer></think>4</answer>", False),
        ("<think><think>a</think><answer>4</answer>", False),
        ("<think>a</think><answer>4</answer><answer>4</answer>", False),
        ("", False),
    ],
)
def test_format(text: str, is_format: bool) -> None:
    assert has_think_answer_format(text) is is_format


def test_length_limit() -> None:
    frame = "<think></think><answer>4</answer>"
    longest = "<think>" + "x" * (MAX_CHARS - len(frame)) + frame.removeprefix("<think>")
    assert len(longest) == MAX_CHARS
    assert find_answer(longest) == "4"
    assert has_think_answer_format(longest)
    assert find_answer(" " + longest) is None
    assert not has_think_answer_format(" " + longest)


@pytest.mark.parametrize("piece", ["<think>", "</think>", "<answer>", "<think><answer>", "</answer><", " ", "<"])
def test_hostile_repetition_is_fast(piece: str) -> None:
    text = (piece * MAX_CHARS)[:MAX_CHARS]

    def read() -> None:
        assert find_answer(text) is None
        assert not has_think_answer_format(text)

    assert takes_less_than(0.05, read)


@pytest.mark.parametrize(
    ("published", "answer"),
    [
        ("<answer> 145° </answer>", "145°"),
        ("<answer>3</answer>", "3"),
        ("<think>two and one</think> <answer>3</answer>", "3"),
        ("145°", "145°"),
        ("<answer></answer>", ""),
        ("", ""),
    ],
)
def test_published_solutions_lose_their_tags(published: str, answer: str) -> None:
    assert strip_answer_tags(published) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"<think>a</think>\boxed{4}", "4"),
        (r"<think>\boxed{3}</think>So it is $\boxed{ 5\sqrt{2} }$.", r"5\sqrt{2}"),
        (r"<think></think>\boxed{3} and then \boxed{4}", "4"),
        (r"\boxed{4}", "4"),
        (r"<think>a</think>\boxed{{'bbox': [1, 2, 3, 4]}}", "{'bbox': [1, 2, 3, 4]}"),
        (r"<think>a \boxed{4}", None),
        (r"<think>\boxed{4}</think>4", None),
        (r"<think>a</think>\boxed{4", None),
        (r"<think>a</think>\boxed{}", None),
        ("<think>a</think><answer>4</answer>", None),
        ("x" * MAX_CHARS + r"\boxed{4}", None),
    ],
)
def test_the_last_box_after_the_reasoning(text: str, answer: str | None) -> None:
    assert find_answer(text, "boxed") == answer


@pytest.mark.parametrize(
    ("text", "is_format"),
    [
        (r"<think>a</think>\boxed{4}", True),
        (r" <think></think> So it is $\boxed{4}$. ", True),
        (r"\boxed{4}", False),
        (r"<think>a</think>4", False),
        (r"<think>a</think><think>b</think>\boxed{4}", False),
        (r"<think>a\boxed{4}</think>", False),
        ("<think>a</think><answer>4</answer>", False),
    ],
)
def test_format_of_a_boxed_answer(text: str, is_format: bool) -> None:
    assert read_completion(text, "boxed")[1] is is_format
    assert read_completion(text, "tags")[1] is has_think_answer_format(text)


def test_an_answer_is_written_where_it_is_found() -> None:
    for answer in ("4", "5√{2}", '[{"a": 1}]'):
        assert find_answer(write_answer("so", answer), "tags") == answer
        assert find_answer(write_answer("so", answer, "boxed"), "boxed") == answer
    with pytest.raises(ValueError, match=naming("prompt.answer_in")):
        write_answer("", "a } b", "boxed")


@pytest.mark.parametrize("piece", ["\\boxed{", "}", "{", "\\boxed{}", "</think>\\boxed{"])
def test_hostile_boxes_are_fast(piece: str) -> None:
    text = (piece * MAX_CHARS)[:MAX_CHARS]
    assert takes_less_than(0.05, lambda: (find_answer(text, "boxed"), read_completion(text, "boxed")))


@pytest.mark.parametrize(
    "text", ["\\boxed{4}", "\\boxed {4}", "\\boxed4", "\\fbox{4}", "\\boxed 4.", "\\fbox{3} \\boxed{4}"]
)
def test_a_box_in_its_spellings(text: str) -> None:
    assert find_answer(f"<think>\\boxed{{7}}</think>{text}", "boxed") == "4"
    assert read_completion(f"<think></think>{text}", "boxed")[1]


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed",
        "\\boxed42",
        "\\boxed4.5",
        "\\boxed4 + 3",
        "\\boxed4\\sqrt2",
        "\\boxed4/3",
        "\\boxed{4",
        "\\boxed{}",
        "\\boxed{4} \\boxed42",
        "4",
        "\\boxer{4}",
    ],
)
def test_what_is_no_box(text: str) -> None:
    assert find_answer(f"<think>\\boxed{{7}}</think>{text}", "boxed") is None
    assert not read_completion(f"<think></think>{text}", "boxed")[1]


TAGS = ("<think>", "</think>", "<answer>", "</answer>", "[THINK]", "[/THINK]", "<|channel>thought", "<channel|>")
PIECES = (*TAGS, "<|begin_of_box|>", "<|end_of_box|>", "\\boxed{4}", "<", ">", " ", "\n", "\u2028", "\x1c", "4")


@settings(max_examples=400)
@given(
    st.lists(st.sampled_from(PIECES), max_size=9),
    st.booleans(),
    st.sampled_from(["tags", "boxed"]),
)
def test_a_completion_read_at_once_is_read_the_same(pieces: list[str], is_whole: bool, answer_in: Any) -> None:
    text = "".join(pieces)
    if is_whole:
        text = f"<think>{''.join(pieces[:3])}</think>{''.join(pieces[3:5])}<answer>{''.join(pieces[5:])}</answer>"
    assert read_completion(text, answer_in) == _read_any(text, answer_in)
    assert read_completion(text, answer_in)[0] == find_answer(text, answer_in)
