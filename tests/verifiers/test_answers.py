import time

import pytest

from gpg_vl.verifiers.answers import MAX_CHARS, find_answer, has_think_answer_format, strip_answer_tags


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
    start = time.process_time()
    assert find_answer(text) is None
    assert not has_think_answer_format(text)
    assert time.process_time() - start < 0.05


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
