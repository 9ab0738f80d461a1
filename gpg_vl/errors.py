"""How an error is shown to a user."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """The first line of the message, or the type if there is none: libraries' messages can be paragraphs long."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
