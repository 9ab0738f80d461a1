"""What of an error is told to a user."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """The first line of its message, or its type where it has none: libraries write on for paragraphs."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
