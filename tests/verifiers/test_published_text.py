import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpg_vl.verifiers import published_text as found
from tests.support.clock import takes_less_than

PIECES = ["<answer>", "</answer>", "<think>", "</think>", "\n", " ", "a", "\t"]
texts = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


def search(pattern: str, text: str, flags: int = 0) -> str | None:
    match = re.search(pattern, text, flags)
    return match[1] if match else None


@given(texts)
def test_linear_scans_find_what_the_published_patterns_find(text: str) -> None:
    assert found.first_answer_on_a_line(text) == search("<answer>(.*?)</answer>", text)
    assert found.first_answer_across_lines(text) == search("<answer>(.*?)</answer>", text, re.DOTALL)
    assert found.first_answer_within_spaces(text) == search(r"<answer>\s*(.*?)\s*</answer>", text)
    pattern = r"<think>.*?</think>\s*<answer>.*?</answer>"
    assert found.has_published_format(text) == (re.fullmatch(pattern, text, re.DOTALL) is not None)


@pytest.mark.parametrize("piece", ["<answer>", "<think>", "</think>", "<think></think>", "<answer>\n", " "])
def test_hostile_text_is_fast(piece: str) -> None:
    text = "<think>" + piece * (64_000 // len(piece)) + "</answer>"

    def read() -> None:
        found.first_answer_on_a_line(text)
        found.first_answer_across_lines(text)
        found.first_answer_within_spaces(text)
        found.has_published_format(text)

    assert takes_less_than(0.05, read)
