"""A published source, local or on the hub -> its rows, one at a time; memory does not grow with the source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import ijson
import pyarrow
import pyarrow.parquet

from gpg_vl.data.footers import check_sizes
from gpg_vl.data.json_text import read_object
from gpg_vl.errors import first_line
from gpg_vl.files import may_be_on_hub
from gpg_vl.screen import say_once

ROWS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row as published: ``SourceRow(7, "train.parquet, row 7", {"problem": ..., "solution": ...})``."""

    number: int  # from 1, over all files of the source
    place: str  # file and row, for messages
    values: dict[str, Any]


def find_files(source: str, pattern: str) -> list[Path]:
    """The file named by ``source``, or the matching files of a folder or hub data set, in order of their names.

    A hub data set is downloaded into the hub's cache; an interrupted download is resumed.

    Raises:
        ValueError: no such file or folder, or no matching file; says what was searched for
    """
    location = Path(source)
    if location.is_file():
        return [location]
    folder = location if location.is_dir() else _download(source, pattern)
    files = sorted(path for path in folder.rglob(pattern) if path.is_file())
    if not files:
        raise ValueError(f"{source} has no file {pattern}; name the file itself")
    return files


def _download(name: str, pattern: str) -> Path:
    if "/" not in name or not may_be_on_hub(name):
        raise ValueError(f"no such file or folder: {name}")
    say_once(f"loading {name} from the hub")
    try:
        return Path(huggingface_hub.snapshot_download(name, repo_type="dataset", allow_patterns=[f"*{pattern}"]))
    except (OSError, ValueError) as error:
        reason = first_line(error)
        raise ValueError(f"{name} is not a local file or folder, nor available from the hub: {reason}") from error


def read_parquet(source: str, columns: Sequence[str], pattern: str = "*.parquet") -> Iterator[SourceRow]:
    """These columns of the rows of a source's Parquet files; the columns of all files are checked first.

    Raises:
        ValueError: a file is not Parquet or lacks a column; names it
    """
    files = find_files(source, pattern)
    for file in files:
        missing = sorted(set(columns) - set(_column_names(file)))
        if missing:
            raise ValueError(f"{file} has no column {', '.join(missing)}; it has {_column_names(file)}")
    return _iterate_parquet(files, columns)


def read_all_parquet(source: str) -> Iterator[SourceRow]:
    """The rows of one Parquet file with all its columns.

    Raises:
        ValueError: there is no such file, or it is not Parquet
    """
    if not Path(source).is_file():
        raise ValueError(f"no such file: {source}")
    return read_parquet(source, _column_names(Path(source)))


def _column_names(file: Path) -> list[str]:
    try:
        names: list[str] = pyarrow.parquet.read_schema(file).names
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{file} cannot be read as Parquet: {first_line(error)}") from error
    return names


def _iterate_parquet(files: Sequence[Path], columns: Sequence[str]) -> Iterator[SourceRow]:
    number = 0
    for file in files:
        check_sizes(file)
        for row, values in enumerate(_read_values(file, columns), start=1):
            number += 1
            yield SourceRow(number, f"{file.name}, row {row}", values)


def _read_values(file: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    done = 0
    try:
        with pyarrow.parquet.ParquetFile(file, memory_map=True) as parquet:
            for batch in parquet.iter_batches(ROWS_AT_ONCE, columns=list(columns), use_threads=False):
                rows = batch.to_pylist()
                yield from rows
                done += len(rows)
    except (OSError, pyarrow.ArrowException, UnicodeDecodeError, OverflowError) as error:
        reason = f"{type(error).__name__}: {first_line(error)[:200]}"
        raise ValueError(f"{file}, after row {done}: cannot be read ({reason}); download the file again") from error


def read_json_lines(source: str) -> Iterator[SourceRow]:
    """The objects of a JSON lines file; empty lines are skipped.

    Raises:
        ValueError: no such file, or a line is not a JSON object; names the line
    """
    if not Path(source).is_file():
        raise ValueError(f"no such file: {source}")
    return _iterate_lines(Path(source))


def _iterate_lines(file: Path) -> Iterator[SourceRow]:
    number = 0
    with file.open("rb") as lines:
        for line_number, line in enumerate(lines, start=1):
            if line.strip():
                number += 1
                place = f"{file.name}, line {line_number}"
                yield SourceRow(number, place, parse_object(line, place))


def read_json_list(source: str) -> Iterator[SourceRow]:
    """The objects of a UTF-8 JSON file that is one list; the whole file is never in memory.

    Raises:
        ValueError: no such file, or it is not a JSON list of objects; names the place
    """
    if not Path(source).is_file():
        raise ValueError(f"no such file: {source}")
    return _iterate_list(Path(source))


def _iterate_list(file: Path) -> Iterator[SourceRow]:
    number = 0
    with file.open("rb") as stream:
        try:
            for value in ijson.items(stream, "item", use_float=True):
                number += 1
                if not isinstance(value, dict):
                    raise ValueError(f"{file.name}, entry {number}: a {type(value).__name__}, not an object")
                yield SourceRow(number, f"{file.name}, entry {number}", value)
        except (ijson.JSONError, UnicodeDecodeError) as error:
            raise ValueError(f"{file.name}, after entry {number}: not JSON ({type(error).__name__})") from error
    if number == 0:
        raise ValueError(f"{file.name} is not a JSON list of objects")


def parse_object(content: bytes, place: str) -> dict[str, Any]:
    """A JSON object in UTF-8 or else in cp1252, which some published files use.

    Raises:
        ValueError: it is neither; names the place
    """
    try:
        return read_object(decode_text(content))
    except UnicodeDecodeError as error:
        raise ValueError(f"{place}: neither UTF-8 nor cp1252") from error
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def decode_text(content: bytes) -> str:
    """Decodes UTF-8, with or without a byte order mark, or else cp1252.

    Raises:
        UnicodeDecodeError: neither
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252")
