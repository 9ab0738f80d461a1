"""Sizes a Parquet file from its footer, before any of its rows is read: a small file can hold more than the machine.

The footer counts a text that many rows share once, where it stands in a dictionary. So the dictionaries' own sizes are
looked at too; where these allow for more than there is room, the texts that the rows point to are counted.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pyarrow
import pyarrow.compute
import pyarrow.parquet  # type: ignore[import-untyped]

_BYTES_PER_VALUE = 8
"""What a value takes beside its content, as an offset or a number: columns of nulls have no content."""
_HARMLESS = 2**26
_READ_AT_ONCE = 2**16
_ROWS_AT_ONCE = 128
_LONGEST_HEADER = 32


class TooLarge(ValueError):
    """The content does not fit; names the file, what it takes and what is free."""


def check_sizes(path: str | Path, copied_to: Path | None = None) -> int:
    """The number of rows.

    Args:
        copied_to: folder that a copy of the whole content goes to; None: a part at a time is in memory

    Raises:
        TooLarge: a row group does not fit into memory, or the whole content on the disk
        pyarrow.ArrowException, OSError: it is no Parquet file
    """
    footer = pyarrow.parquet.read_metadata(path)
    groups = [
        [_Column(path, footer, n, column) for column in range(footer.num_columns)] for n in range(footer.num_row_groups)
    ]
    _refuse(path, [sum(column.least for column in group) for group in groups], copied_to)
    most = [sum(column.least + column.repeated for column in group) for group in groups]
    try:
        _refuse(path, most, copied_to)
    except TooLarge:
        _refuse(path, [sum(column.count() for column in group) for group in groups], copied_to)
    return int(footer.num_rows)


def _refuse(path: str | Path, sizes: Sequence[int], copied_to: Path | None) -> None:
    memory = psutil.virtual_memory().available
    if max(sizes, default=0) > memory:
        raise TooLarge(
            f"{path} has a row group of {max(sizes) / 1e9:.1f} GB, but {memory / 1e9:.1f} GB of memory are free; "
            "write it with smaller row groups"
        )
    if copied_to is not None:
        there = next(folder for folder in (copied_to, *copied_to.parents) if folder.is_dir())
        free = shutil.disk_usage(there).free
        if sum(sizes) > free:
            raise TooLarge(
                f"{path} holds {sum(sizes) / 1e9:.1f} GB, but {copied_to} has {free / 1e9:.1f} GB free; free space, or "
                "set HF_DATASETS_CACHE to a folder on a larger disk"
            )


class _Column:
    """A column of a row group."""

    def __init__(self, path: str | Path, footer: Any, group: int, column: int) -> None:
        self._path, self._group = path, group
        self._chunk = footer.row_group(group).column(column)
        length = footer.schema.column(column).length  # of values that all have one
        num_values = self._chunk.num_values
        self.least = self._chunk.total_uncompressed_size + num_values * max(_BYTES_PER_VALUE, length)
        self.repeated = num_values * self._longest_shared()

    def _longest_shared(self) -> int:
        """How long a value can be that the footer does not count for each row."""
        if self._chunk.physical_type != "BYTE_ARRAY":
            return 0
        if "DELTA_BYTE_ARRAY" in self._chunk.encodings:  # a value may begin as the one before it
            return int(self._chunk.total_uncompressed_size)
        start = self._chunk.dictionary_page_offset or self._chunk.data_page_offset
        with open(self._path, "rb") as file:
            file.seek(start)
            return _dictionary_size(file.read(_LONGEST_HEADER), self._chunk.total_uncompressed_size)

    def count(self) -> int:
        """Bytes of the content where rows share texts of a dictionary: at most, or exactly if that is very much."""
        if self.repeated <= _HARMLESS or "DELTA_BYTE_ARRAY" in self._chunk.encodings:
            return self.least + self.repeated
        first = next(self._read(1), None)
        longest = 0 if first is None else _longest_text(first.column(0))
        if 0 < longest * self._chunk.num_values <= max(_HARMLESS, 2 * self.least):  # else the first row says nothing
            return self.least + longest * self._chunk.num_values
        return self.least + sum(_expanded_size(batch.column(0)) for batch in self._read(_ROWS_AT_ONCE))

    def _read(self, num_rows: int) -> Iterator[Any]:
        """Batches of rows, whose texts stay in the dictionary."""
        name = self._chunk.path_in_schema
        with pyarrow.parquet.ParquetFile(
            self._path, read_dictionary=[name], pre_buffer=False, buffer_size=_READ_AT_ONCE
        ) as file:
            yield from file.iter_batches(num_rows, row_groups=[self._group], columns=[name])


def _longest_text(array: Any) -> int:
    """Of the dictionary of a column of one leaf."""
    leaf = _leaf(array)
    if not pyarrow.types.is_dictionary(leaf.type):
        return int(leaf.nbytes)
    return int(pyarrow.compute.max(pyarrow.compute.binary_length(leaf.dictionary)).as_py() or 0)


def _expanded_size(array: Any) -> int:
    """Of the texts that a column of one leaf points to."""
    leaf = _leaf(array)
    if not pyarrow.types.is_dictionary(leaf.type):
        return int(leaf.nbytes)
    lengths = pyarrow.compute.binary_length(leaf.dictionary).take(leaf.indices)
    return int(pyarrow.compute.sum(lengths).as_py() or 0)


def _leaf(array: Any) -> Any:
    while not pyarrow.types.is_dictionary(array.type) and pyarrow.types.is_nested(array.type):
        array = array.field(0) if pyarrow.types.is_struct(array.type) else array.flatten()
    return array


def _dictionary_size(header: bytes, most: int) -> int:
    """Bytes of a column's dictionary, unpacked; 0 if it has none.

    Args:
        header: the beginning of the column's first page: its kind and its size, each with a byte before it
        most: what is assumed of a page that begins in another way
    """
    numbers = _read_numbers(header)
    try:
        kind, size = next(numbers), next(numbers)
    except StopIteration:
        return most
    return size if kind == _DICTIONARY_PAGE else 0


_DICTIONARY_PAGE = 2
_NUMBER_FOLLOWS = 0x15  # Thrift's compact protocol: the next field, a number of 32 bits


def _read_numbers(header: bytes) -> Iterator[int]:
    """The numbers of consecutive fields, which are written 7 bits at a time, the lowest first."""
    position = 0
    while position < len(header) and header[position] == _NUMBER_FOLLOWS:
        end = next((n for n in range(position + 1, len(header)) if header[n] < 0x80), None)
        if end is None:
            return
        value = sum((byte & 0x7F) << 7 * n for n, byte in enumerate(header[position + 1 : end + 1]))
        yield value >> 1  # of positive numbers
        position = end + 1
