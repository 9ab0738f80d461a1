"""Lines for a terminal: cleaned, since rows, files and models say what they like, and never the end of a run."""

from __future__ import annotations

import errno
import os
import re
import sys
from contextlib import suppress
from functools import cache
from typing import TextIO

_GONE = (errno.EPIPE, errno.EIO, errno.EBADF)
"""A closed pipe, a terminal that hung up, a closed descriptor."""


_ESCAPE_CODE = re.compile(
    "(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b\\]|\x9d)[^\x07\x1b\x9c\x9d\\n]*(?:\x07|\x1b\\\\|\x9c)"
)
"""Colours, movements and the like; titles and links. What is left of others is not printable either."""


def printable(text: str) -> str:
    """One line without control characters, escape codes and marks that change the direction of text."""
    return "".join(char if char.isprintable() else " " for char in _ESCAPE_CODE.sub("", text))


def printable_lines(text: str) -> str:
    """The same for text of several lines."""
    return "\n".join(map(printable, text.split("\n")))


def say(text: str = "", start: str = "", end: str = "\n") -> None:
    """Prints to standard error. Where that fails, nothing happens: a run does not end over a line on the screen.

    Args:
        start, end: what stands around the text as it is
    """
    with suppress(OSError):
        _write(sys.stderr, start + printable_lines(text) + end)


@cache
def say_once(text: str) -> None:
    """The same, once in a process, and of several ranks only on the first."""
    if os.environ.get("RANK", "0") == "0":
        say(text)


def tell(text: str = "", end: str = "\n") -> None:
    """Prints the result of a command to standard output.

    Raises:
        OSError: it could not be written, other than because nobody reads it any more
    """
    _write(sys.stdout, printable_lines(text) + end)


def paint(stream: TextIO, text: str) -> None:
    """Writes text as it is, escape codes included: what a program drew of cleaned text. As ``say``, it never fails."""
    with suppress(OSError):
        _write(stream, text)


def is_terminal() -> bool:
    """Whether standard error goes to one."""
    return sys.stderr is not None and sys.stderr.isatty()


def can_be_painted() -> bool:
    """Whether it goes to a terminal on which lines can be replaced."""
    return is_terminal() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


def open_closed_streams() -> None:
    """Opens those of the three standard streams that the caller closed: else the next file would have their number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _write(stream: TextIO | None, text: str) -> None:
    if stream is None:  # closed when the process started
        return
    try:
        stream.write(_encodable(text, stream))
        stream.flush()
    except OSError as error:
        if error.errno not in _GONE:
            raise
        _let_go(stream)
    except ValueError:  # the stream was closed
        pass


def _encodable(text: str, stream: TextIO) -> str:
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _let_go(stream: TextIO) -> None:
    """Sends the stream nowhere from now on: what it still holds would fail again when Python ends."""
    with suppress(OSError, ValueError, AttributeError):  # a stream of somebody's own may have no descriptor
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
