"""The shapes in which others write rows, told by their columns (docs/data.md, "Coming from ...").

Each is a record: its name, the columns that tell it, and for each of the kit's fields the columns that may hold it. To
read another shape, add a record. What stands in a column (messages, an object with the answer) is read in ``rows.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpg_vl.data.json_text import read_object

Columns = Mapping[str, str | tuple[str, ...]]
"""Kit field -> the column that holds it; several, if each holds an image. ``a.b`` is the key b of column a."""

IMAGE_COLUMNS = ("images", "image", "file_name", "file_names", "image_path", "image_paths")
MESSAGE_COLUMNS = ("prompt", "messages", "conversations")
"""Columns of the question that may hold messages, and with them the answer and the images."""
_NUMBERED_IMAGE = re.compile(r"image_?(\d{1,3})")


@dataclass(frozen=True, slots=True)
class Shape:
    """One way to write rows."""

    name: str  # "read as NAME rows"
    told_by: tuple[str, ...]  # columns that must all be there
    question: tuple[str, ...]  # columns that may hold the question; the first that is there does
    answer: tuple[str, ...]  # likewise; none of them: the answer is the assistant's message


_ANSWERS = ("answer", "ground_truth", "solution")

SHAPES = (
    Shape("verl", ("reward_model",), ("prompt", "problem", "question"), ("reward_model.ground_truth",)),
    Shape("LLaVA", ("conversations",), ("conversations",), _ANSWERS),
    Shape("ms-swift", ("messages",), ("messages",), _ANSWERS),
    Shape("ms-swift", ("query",), ("query",), (*_ANSWERS, "response")),
    Shape("TRL", ("prompt",), ("prompt",), (*_ANSWERS, "completion")),
    Shape("EasyR1", ("problem",), ("problem",), _ANSWERS),
)
"""In the order in which they are tried: the first whose columns are there is taken."""


def find_shape(available: Sequence[str]) -> Shape | None:
    """The shape of rows with these columns; None for the kit's own columns, and for columns that tell nothing."""
    if {"question", "answer"} <= set(available):
        return None
    there = {*available, *(name.partition(".")[0] for name in available)}
    fitting = (shape for shape in SHAPES if set(shape.told_by) <= there)
    return next((shape for shape in fitting if _first(shape.question, available)), None)


def shape_columns(shape: Shape, available: Sequence[str]) -> dict[str, str | tuple[str, ...] | None]:
    """The columns that hold question and answer; no answer, if it is in the messages of the question."""
    return {"question": _first(shape.question, available), "answer": _first(shape.answer, available)}


def image_columns(available: Sequence[str]) -> str | tuple[str, ...] | None:
    """The column of the images, or all of ``image_1``, ``image_2`` ... in their order; None if there is none."""
    numbered = {int(found[1]): name for name in available if (found := _NUMBERED_IMAGE.fullmatch(name))}
    if numbered and "images" not in available:
        first = ("image",) if "image" in available else ()
        return (*first, *(numbered[number] for number in sorted(numbered)))
    return _first(IMAGE_COLUMNS, available)


def describe_reading(kind: str, shape: Shape | None, columns: Columns) -> str:
    """``read as verl rows: question from prompt, ...``; "" for rows that have the kit's own columns in a plain file.

    Args:
        kind: of the file, if it is not plain, as "WebDataset shards"
    """
    if shape is None and not kind:
        return ""
    rows = f"{shape.name} rows" if shape is not None else "rows"
    whole = f"{rows} of {kind}" if kind else rows
    said: Columns = {field: columns.get(field, "the messages") for field in ("question", "answer", "images")}
    return f"read as {whole}: {', '.join(_describe_field(*each) for each in said.items())}"


def _describe_field(field: str, column: str | tuple[str, ...]) -> str:
    columns = " and ".join([column] if isinstance(column, str) else column)
    return field if columns == field else f"{field} from {columns}"


def _first(names: Sequence[str], available: Sequence[str]) -> str | None:
    return next((name for name in names if name in available or name.partition(".")[0] in available), None)


def look_up(row: Mapping[str, Any], column: str) -> Any:
    """The value of a column, or of a key in it: ``reward_model.ground_truth``, ``choices.0``; None if there is none."""
    if column in row:
        return row[column]
    name, *keys = column.split(".")
    value = row.get(name)
    for key in keys:
        if isinstance(value, str) and value.startswith("{"):  # an object as JSON text
            value = read_object(value)
        if isinstance(value, Mapping):
            value = value.get(key)
        else:
            value = value[int(key)] if isinstance(value, list) and key.isdecimal() and int(key) < len(value) else None
    return value
