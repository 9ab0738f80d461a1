import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpg_vl.verifiers.sentences import is_bare, readings


@given(st.text(alphabet="rose isanBA5_-*.$: 7", max_size=12))
def test_what_is_bare_has_one_reading(text: str) -> None:
    if is_bare(text):
        assert list(readings(text)) == [text]


@pytest.mark.parametrize("text", ["rose", "american_bulldog", "737-800", "2012 Audi A5 Coupe", "a"])
def test_plain_names_are_bare(text: str) -> None:
    assert is_bare(text)


@pytest.mark.parametrize(
    "text", ["It is a rose", "rose.", " rose", "_rose_", "so rose", "Answer: rose", "ros\u00e9", ""]
)
def test_what_may_have_something_around_it_is_not(text: str) -> None:
    assert not is_bare(text)
