"""How an error is shown to a user, and whose fault it is."""

from __future__ import annotations


class ModelMistake(ValueError):
    """A file of the model's folder is wrong, whatever the row: the message names no row."""


def first_line(error: BaseException) -> str:
    """The first line of the message, or the type if there is none: libraries' messages can be paragraphs long."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
