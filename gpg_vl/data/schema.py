"""The row schema: its version, its columns in Parquet, and what a field may contain (docs/data.md)."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import datasets

from gpg_vl.data.json_text import check_characters, write_json

SCHEMA_VERSION = 1
"""Incremented when an older kit would misread new rows. Rows without a version have version 1."""

VERSION_FIELD = "schema_version"
KIT_FIELDS = ("id", "task", "images", "videos", "question", "answer", "meta")

MAX_TEXT_CHARS = 65_536
"""Limit of a text field: no model of the kit reads more, and completions have the same limit."""

FEATURES = datasets.Features(
    {
        VERSION_FIELD: datasets.Value("int32"),
        **{name: datasets.Value("string") for name in ("id", "task")},
        "images": datasets.List(datasets.Image()),
        **{name: datasets.Value("string") for name in ("question", "answer", "meta")},
    }
)
"""Columns of a Parquet file of kit rows; ``meta`` is JSON text. Rows with videos are written as JSON lines."""


def check_version(value: Any) -> None:
    """Raises ``ValueError`` if this kit cannot read a row's ``schema_version``; None means version 1."""
    if value not in (None, SCHEMA_VERSION):
        raise ValueError(
            f"schema_version is {repr(value)[:40]}, but this kit reads {SCHEMA_VERSION}; "
            "write the rows again with this kit, or use a newer one"
        )


def read_text(field: str, value: Any) -> str:
    """The text of a field; a number becomes text.

    Raises:
        ValueError: the value is missing, too long or cannot be text, as a list or an object; names the field
    """
    if isinstance(value, list | tuple | dict):
        kind = "an object" if isinstance(value, dict) else "a list"
        raise ValueError(f"the {field} is {kind}; write text, or name what holds the text by columns.{field}, as a.b")
    if value is None or value == "" or value != value:  # the last is NaN, a missing number in a table
        raise ValueError(f"the {field} is missing; fill it in")
    try:
        text = value if isinstance(value, str) else str(value) if isinstance(value, Decimal) else write_json(value)
        check_characters(text)
    except ValueError as error:
        raise ValueError(f"the {field} cannot be read as text: {error}") from error
    if len(text) > MAX_TEXT_CHARS:
        raise ValueError(f"the {field} has {len(text)} characters, more than {MAX_TEXT_CHARS}; shorten it")
    return text
