"""Rows of text files, kept in memory: JSON lines, a JSON list, CSV and TSV; also packed by gzip or Zstandard."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import psutil

from gpg_vl.data.json_text import check_characters, read_object
from gpg_vl.data.unpacking import MAX_BYTES, name_without_packing, read_bytes

TableRow = dict[str, Any]

_COPIES = 4
"""How often a file's content is in memory while it is read: as bytes, as lines, and as rows."""
MAX_CELL_CHARS = 2**27
"""Of a CSV file: a picture as base64 fits."""


class TextTable:
    """Rows that are in memory. Accessing a row that could not be read raises its error."""

    def __init__(self, path: str, rows: Sequence[TableRow | ValueError], kind: str = "") -> None:
        """
        Args:
            kind: what the file is, if that is worth a line

        Raises:
            ValueError: no row could be read; the message is the first row's
        """
        good = [row for row in rows if not isinstance(row, ValueError)]
        if rows and not good:
            raise ValueError(f"{path}, {_line_of(rows[0])}: {rows[0]}")
        self._rows = rows
        self.kind = kind
        self.column_names = list(dict.fromkeys(name for row in good for name in row))

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, index: int) -> TableRow:
        row = self._rows[index]
        if isinstance(row, ValueError):
            line = _line_of(row)
            raise ValueError(str(row) if line == f"line {index + 1}" else f"{row} ({line})")
        return row

    def column(self, name: str) -> list[Any]:
        return [None if isinstance(row, ValueError) else row.get(name) for row in self._rows]


class _BadLine(ValueError):
    """A line, or an entry of a list, that is not a row."""

    def __init__(self, message: str, place: str) -> None:
        super().__init__(message)
        self.place = place


def _line_of(row: object) -> str:
    return row.place if isinstance(row, _BadLine) else "line 1"


def open_text(path: str, limit: int | None) -> TextTable:
    """The rows of a text file whose name says what it is (``TEXT_SUFFIXES``), packed or not.

    Raises:
        ValueError: no row can be read, or the file cannot be unpacked; names the line
    """
    location = Path(path)
    content = read_bytes(location, min(MAX_BYTES, psutil.virtual_memory().available // _COPIES))
    return _READERS[Path(name_without_packing(location)).suffix](path, content, limit)


def _read_json(path: str, content: bytes, limit: int | None) -> TextTable:
    """A list of objects, or JSON lines."""
    if not content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        return _read_lines(path, content, limit)
    try:
        entries = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return _read_lines(path, content, limit, f"the file is not a JSON list ({type(error).__name__})")
    return TextTable(path, [_check_entry(entry, n) for n, entry in enumerate(entries[:limit], start=1)])


def _check_entry(entry: Any, number: int) -> TableRow | ValueError:
    place = f"entry {number}"
    if not isinstance(entry, dict):
        return _BadLine(f"the entry is a JSON {type(entry).__name__}, not an object", place)
    try:
        check_characters(json.dumps(entry, ensure_ascii=False))
    except ValueError as error:
        return _BadLine(f"the entry is {error}; write it again", place)
    return entry


def _read_lines(path: str, content: bytes, limit: int | None, hint: str = "") -> TextTable:
    """An object per line; blank lines are skipped."""
    lines = ((n, line) for n, line in enumerate(content.splitlines(), start=1) if line.strip())
    return TextTable(path, [_parse_line(line, n, hint) for n, line in islice(lines, limit)])


def _parse_line(line: bytes, number: int, hint: str) -> TableRow | ValueError:
    place = f"line {number}"
    try:
        return read_object(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return _BadLine("the line is not UTF-8; save the file as UTF-8", place)
    except ValueError as error:
        return _BadLine(f"the line is {error}; {hint or 'write one JSON object per line'}", place)


def _read_cells(path: str, content: bytes, limit: int | None, separator: str = "") -> TextTable:
    """CSV with a header. Every value is text; an empty cell is null."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8; save it as CSV UTF-8") from error
    header = text.partition("\n")[0]
    separator = separator or (";" if ";" in header and "," not in header else ",")
    csv.field_size_limit(MAX_CELL_CHARS)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        names = [name.strip() for name in next(rows, [])]
        names[:1] = [names[0] or "index"] if names else []  # as pandas writes the numbers of rows
        if len(set(names)) < len(names) or "" in names:
            raise ValueError(f"{path}: its first line must name each column once; it has {names[:12]}")
        cells = ((number, row) for number, row in enumerate(_lines_of(rows), start=1) if row)
        found = [_name_cells(names, row, n) for n, row in islice(cells, limit)]
    except csv.Error as error:
        raise ValueError(f"{path}, line {rows.line_num}: {error}; write the file again") from error
    return TextTable(path, found, "a CSV file")


def _lines_of(rows: Iterator[list[str]]) -> Iterator[list[str]]:
    """Rows of cells; [] for a line without text."""
    yield from (row if any(cell.strip() for cell in row) else [] for row in rows)


def _name_cells(names: Sequence[str], cells: Sequence[str], number: int) -> TableRow | ValueError:
    place = f"line {number + 1}"
    if len(cells) != len(names):
        return _BadLine(f"the row has {len(cells)} cells, the header {len(names)}; quote cells with commas", place)
    return {name: _read_cell(name, cell) for name, cell in zip(names, cells, strict=True)}


def _read_cell(name: str, cell: str) -> Any:
    if cell.startswith("[") and name.startswith(("image", "file_name")):
        try:
            return json.loads(cell)
        except (ValueError, RecursionError):
            return cell
    return cell if cell.strip() else None


def _read_tabs(path: str, content: bytes, limit: int | None) -> TextTable:
    return _read_cells(path, content, limit, "\t")


_READERS: Mapping[str, Callable[[str, bytes, int | None], TextTable]] = {
    ".jsonl": _read_lines,
    ".json": _read_json,
    ".csv": _read_cells,
    ".tsv": _read_tabs,
}
TEXT_SUFFIXES = tuple(_READERS)
