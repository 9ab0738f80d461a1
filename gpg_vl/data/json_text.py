"""Reads and writes the JSON of a row. Writing refuses what reading would refuse, and the reverse."""

from __future__ import annotations

import json
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any


def read_object(text: str) -> dict[str, Any]:
    """The JSON object in ``text``.

    Raises:
        ValueError: it is not JSON, is not an object, or has half a character; says which without quoting the text
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg} at {error.colno}" if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise ValueError(f"not JSON ({reason})") from error
    if not isinstance(value, dict):
        raise ValueError(f"a JSON {type(value).__name__}, not an object")
    if "\\u" in text:
        check_characters(json.dumps(value, ensure_ascii=False))
    return value


def write_json(value: Any) -> str:
    """A value of a row as JSON. Values that JSON does not have, such as a date, become text.

    Raises:
        ValueError: the value cannot be written as JSON
    """
    try:
        text = json.dumps(value, ensure_ascii=False, default=_write_other)
    except (TypeError, RecursionError) as error:
        raise ValueError(f"a value cannot be written as JSON ({type(error).__name__})") from error
    check_characters(text)
    return text


def check_characters(text: str) -> None:
    r"""Raises ``ValueError`` if ``text`` has half a character, such as JSON's ``"\ud83d"`` without its second half."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError("text with half a character (a lone surrogate)") from error


def _write_other(value: object) -> str:
    if isinstance(value, date | time | timedelta | Decimal):
        return str(value)
    raise ValueError(f"a value has the type {type(value).__name__}, which JSON does not have; remove its column")
