"""Rows that a program holds -> samples: a list of mappings, or a ``datasets.Dataset``; pictures may be those of PIL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import numpy
from PIL import Image, ImageOps

from gpg_vl.data.rows import GivenColumns
from gpg_vl.data.sources import Source, match_table
from gpg_vl.data.tables import Table, TableRow, open_dataset

NAME = "rows"
"""What messages call them, and ids begin with."""
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I")


def read_memory_rows(
    rows: Sequence[Mapping[str, Any]] | datasets.Dataset,
    task: str | None = None,
    columns: GivenColumns | None = None,
    image_root: Path | None = None,
) -> Source:
    """
    Args:
        rows: in any shape in which a file can have them (docs/data.md)
        task: replaces the task of every row
        columns: kit field -> the rows' column
        image_root: folder that image paths are relative to and must stay inside; None: the working directory

    Raises:
        ValueError: no rows, a column is missing, or an id occurs twice; each row is checked when it is read
    """
    table: Table = open_dataset(rows) if isinstance(rows, datasets.Dataset) else _ListTable(rows)
    return match_table(NAME, table, columns, task, (image_root or Path()).resolve())


class _ListTable:
    """A list of mappings, which need not have the same keys."""

    kind = ""

    def __init__(self, rows: Sequence[Mapping[str, Any]]):
        self._rows = list(rows)
        for number, row in enumerate(self._rows, start=1):
            if not isinstance(row, Mapping):
                raise ValueError(f"{NAME}, row {number}: is a {type(row).__name__}; make it a dict of its columns")
        self.column_names = list(dict.fromkeys(name for row in self._rows for name in row))

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, index: int) -> TableRow:
        return {str(name): _plain(value) for name, value in self._rows[index].items()}

    def column(self, name: str) -> list[Any]:
        return [_plain(row.get(name)) for row in self._rows]


def _plain(value: Any) -> Any:
    """A value as a file would hold it: pictures as the bytes of an image file, numbers of numpy as Python's."""
    if isinstance(value, Image.Image):
        return {"bytes": _png(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, numpy.generic | numpy.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _png(image: Image.Image) -> bytes:
    """Upright, as a viewer shows it, with every pixel as it is.

    Raises:
        ValueError: its pixels are floating-point numbers, whose range nobody knows
    """
    if image.mode == "F":
        raise ValueError("the pixels of an image are floating-point numbers; convert it to 8 bits a channel")
    upright = ImageOps.exif_transpose(image)
    buffer = BytesIO()
    (upright if upright.mode in _PNG_MODES else upright.convert("RGB")).save(buffer, "PNG")
    return buffer.getvalue()
