"""docs/errors.md has every message of the code, and none is longer than two lines of the page's width."""

from __future__ import annotations

from tests.support.error_messages import (
    END,
    PAGE,
    START,
    Message,
    all_messages,
    messages_of,
    replace_table,
    write_table,
)

MOST_CHARS = 240


def test_messages_are_read_from_code() -> None:
    source = """
def f(key, error):
    _require(key, f"{key} must be set")
    if key:
        raise ValueError(f"no {key!r} in {error.place}; " + ("set one" if key else "leave it"))
    text = f"{len(key)} is {key}"
    raise CodeMistake(text, f)
def g():
    raise KeyError("for other code")
"""
    texts = [each.text for each in messages_of(source, "m.py")]
    said = ["{key} must be set", "no {key} in {place}; set one", "no {key} in {place}; leave it", "{} is {key}"]
    assert texts == said
    [row] = [line for line in write_table([Message("a | b", "gpg_vl/x.py")]).splitlines() if "a " in line]
    assert row == "| a \\| b | x.py |"


def test_the_page_has_every_message() -> None:
    """``python -m tests.support.error_messages`` writes it anew."""
    messages = all_messages()
    assert len(messages) > 250
    page = PAGE.read_text(encoding="utf-8")
    assert START in page and END in page
    assert replace_table(page, write_table(messages)) == page


def test_no_message_is_longer_than_two_lines() -> None:
    assert [each for each in all_messages() if len(each.text) > MOST_CHARS or each.text.count("\n") > 1] == []
