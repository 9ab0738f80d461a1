"""A data file, a folder saved by ``datasets`` or a hub name -> rows of plain values, images still encoded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import datasets
import pyarrow  # type: ignore[import-untyped]
import pyarrow.dataset  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]

from gpg_vl.data.footers import check_sizes
from gpg_vl.data.json_text import read_object
from gpg_vl.errors import first_line
from gpg_vl.files import is_inside, may_be_on_hub, stays_inside
from gpg_vl.screen import say_once

TableRow = dict[str, Any]

SPLITS_FILE, STATE_FILE = "dataset_dict.json", "state.json"
"""Of a folder saved by ``datasets``: its splits, and the files of one."""

_ROW_GROUP_BY_ROW_GROUP = pyarrow.dataset.ParquetFragmentScanOptions(pre_buffer=False, use_buffered_stream=True)
"""Without this, the whole file stays in memory until its last row is read."""


class Table(Protocol):
    """Rows by index, each made on access."""

    column_names: list[str]

    def __len__(self) -> int: ...

    def row(self, index: int) -> TableRow:
        """Raises ``ValueError`` if the row cannot be read; says why, without the file and the number."""

    def column(self, name: str) -> list[Any]:
        """One value per row, None if the row has none."""


class _ArrowTable:
    """Rows of a memory-mapped ``datasets.Dataset`` as plain values; images stay encoded."""

    def __init__(self, data: datasets.Dataset) -> None:
        self.column_names: list[str] = data.column_names
        self._data = data.with_format("arrow")  # this format decodes nothing

    def __len__(self) -> int:
        return len(self._data)

    def row(self, index: int) -> TableRow:
        row: TableRow = _to_plain(self._data[index])[0]
        return row

    def column(self, name: str) -> list[Any]:
        return _to_plain(self._data.select_columns([name])[:][name])


def _to_plain(values: Any) -> list[Any]:
    try:
        plain: list[Any] = values.to_pylist()
    except UnicodeDecodeError as error:
        raise ValueError("a text is not UTF-8; write the file again") from error
    except (OverflowError, pyarrow.ArrowException) as error:
        raise ValueError(f"a value cannot be read ({first_line(error)}); write the file again") from error
    return plain


class _JsonTable:
    """Rows of a JSON lines file; row n is line n. Accessing a bad line's row raises an error."""

    def __init__(self, path: str, limit: int | None) -> None:
        """Raises ``ValueError`` if no line is a row."""
        lines = Path(path).read_bytes().rstrip().splitlines()[:limit]
        self._rows = list(map(_parse_line, lines))
        rows = [row for row in self._rows if not isinstance(row, ValueError)]
        if self._rows and not rows:
            raise ValueError(f"{path}, line 1: {self._rows[0]}")
        self.column_names = list(dict.fromkeys(name for row in rows for name in row))

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, index: int) -> TableRow:
        row = self._rows[index]
        if isinstance(row, ValueError):
            raise ValueError(str(row))
        return row

    def column(self, name: str) -> list[Any]:
        return [None if isinstance(row, ValueError) else row.get(name) for row in self._rows]


def _parse_line(line: bytes) -> TableRow | ValueError:
    try:
        return read_object(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return ValueError("the line is not UTF-8; save the file as UTF-8")
    except ValueError as error:
        return ValueError(f"the line is {error}; write one JSON object per line")


def open_table(path: str, limit: int | None) -> Table:
    """The first ``limit`` rows, or all, of a local file or folder, or else of the split ``train`` of a hub data set.

    Raises:
        ValueError: it does not exist or cannot be read; names it, and the line if known
    """
    location = Path(path)
    suffix = location.suffix.lower()
    if location.is_file() and suffix in (".jsonl", ".json"):
        return _JsonTable(path, limit)
    if location.is_file() and suffix == ".parquet":
        data = _open_parquet(path)
    elif location.is_file():
        raise ValueError(
            f"{path} is not a data file the kit can read; give a .parquet or .jsonl file or a folder saved by datasets"
        )
    elif location.is_dir():
        data = _open_folder(path)
    elif not may_be_on_hub(path):
        raise ValueError(f"no such file: {path}")
    else:
        data = _open_hub(path)
    return _ArrowTable(data if limit is None else data.select(range(min(limit, len(data)))))


def _open_parquet(path: str) -> datasets.Dataset:
    try:
        is_empty = check_sizes(path, Path(datasets.config.HF_DATASETS_CACHE)) == 0
        with without_progress_bars():  # datasets cannot read a file without rows
            if is_empty:
                return datasets.Dataset.from_dict({})
            data = datasets.Dataset.from_parquet(path, fragment_scan_options=_ROW_GROUP_BY_ROW_GROUP)
            pyarrow.default_memory_pool().release_unused()  # frees the copy that was made; the rows are memory-mapped
            return data
    except (pyarrow.ArrowException, datasets.exceptions.DatasetGenerationError, OSError) as error:
        reason = first_line(error.__cause__ or error)
        raise ValueError(f"{path} cannot be read as parquet: {reason}") from error
    except ValueError as error:  # a map, an interval: datasets has no such type
        message = f"{path} has a column that cannot be read; remove it or write it as text: {first_line(error)}"
        raise ValueError(message) from error


def _open_folder(path: str) -> datasets.Dataset:
    _refuse_files_outside(Path(path))
    try:
        data = datasets.load_from_disk(path)
    except (OSError, pyarrow.ArrowException, ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"{path} is not a folder saved by datasets, or is damaged; to use a .parquet or .jsonl file, name it"
        raise ValueError(message) from error
    if isinstance(data, datasets.Dataset):
        return data
    if "train" not in data:
        raise ValueError(f"{path} has no split 'train'; give the folder of one of its splits: {list(data)}")
    return data["train"]


def _refuse_files_outside(folder: Path) -> None:
    """
    Raises:
        ValueError: the folder, or that of a split, names a file or split outside of itself
    """
    splits = _names(folder / SPLITS_FILE, "splits")
    named = [(folder / SPLITS_FILE, split) for split in splits]
    for each in [folder, *(folder / split for split in splits if stays_inside(split))]:
        files = [file.get("filename") for file in _names(each / STATE_FILE, "_data_files") if isinstance(file, dict)]
        named += [(each / STATE_FILE, file) for file in files]
    for file, name in named:
        if not is_inside(file.parent, name):
            raise ValueError(f"{file} names {name!r}, which is not in its folder; correct it")


def _names(path: Path, key: str) -> list[Any]:
    """A list of a JSON file; empty where there is none: ``datasets`` then says what is missing."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))[key]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    return found if isinstance(found, list) else []


def _open_hub(name: str) -> datasets.Dataset:
    say_once(f"loading {name} from the hub")
    try:
        with without_progress_bars():
            return datasets.load_dataset(name, split="train")
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(
            f"{name} is not a local file or folder, and cannot be loaded as a hub data set: {first_line(error)}"
        ) from error


@contextmanager
def without_progress_bars() -> Iterator[None]:
    were_disabled = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not were_disabled:
            datasets.enable_progress_bars()
