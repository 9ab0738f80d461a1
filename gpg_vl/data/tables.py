"""A data file, a folder or a hub name -> rows of plain values, images still encoded."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import datasets
import pyarrow

from gpg_vl.data.arrow_cache import open_parquet, without_progress_bars
from gpg_vl.data.shards import ShardTable, find_shards
from gpg_vl.data.text_tables import TEXT_SUFFIXES, TableRow, open_text
from gpg_vl.data.unpacking import name_without_packing
from gpg_vl.errors import first_line
from gpg_vl.files import is_inside, may_be_on_hub, stays_inside
from gpg_vl.screen import say_once

__all__ = ["HubPart", "Table", "TableRow", "open_table"]

SPLITS_FILE, STATE_FILE = "dataset_dict.json", "state.json"
"""Of a folder saved by ``datasets``: its splits, and the files of one."""
METADATA_FILES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""Of a folder of pictures, as ``datasets`` names the file that describes them."""


class Table(Protocol):
    """Rows by index, each made on access."""

    column_names: list[str]
    kind: str
    """What the file is, if that is worth a line; else empty."""

    def __len__(self) -> int: ...

    def row(self, index: int) -> TableRow:
        """Raises ``ValueError`` if the row cannot be read; says why, without the file and the number."""

    def column(self, name: str) -> list[Any]:
        """One value per row, None if the row has none."""


@dataclass(frozen=True, slots=True)
class HubPart:
    """Which part of a hub data set is meant; of a saved folder, only the split."""

    split: str | None = None  # None: train
    revision: str | None = None  # branch, tag or commit; None: the newest
    config: str | None = None


class _ArrowTable:
    """Rows of a memory-mapped ``datasets.Dataset`` as plain values; images stay encoded."""

    def __init__(self, data: datasets.Dataset, kind: str = "") -> None:
        self.column_names: list[str] = data.column_names
        self.kind = kind
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


def open_table(path: str, limit: int | None, part: HubPart | None = None) -> Table:
    """The first ``limit`` rows, or all, of a local file or folder, or else of a hub data set.

    Args:
        part: of a hub data set or a saved folder; None: its split ``train``

    Raises:
        ValueError: it does not exist or cannot be read; names it, and the line if known
    """
    location = Path(path)
    _refuse_part(location, part)
    shards = find_shards(path)
    if shards:
        return ShardTable(path, shards, limit)
    if location.is_file():
        return _open_file(path, limit)
    if location.is_dir():
        return _open_folder(location, limit, part or HubPart())
    if _looks_local(path):
        raise ValueError(f"no such file: {path}, in {Path.cwd()}; correct the path")
    return _arrow_rows(_open_hub(path, part or HubPart()), limit)


def _refuse_part(location: Path, part: HubPart | None) -> None:
    """Refuses what only a hub data set, or a saved folder of several splits, has."""
    given = {} if part is None else {key: value for key, value in asdict(part).items() if value is not None}
    known = ["split"] if location.is_dir() else [] if location.is_file() else list(given)
    unknown = [key for key in given if key not in known]
    if unknown:
        raise ValueError(f"{location} is local and has no {unknown[0]}; leave {unknown[0]} out")


def _looks_local(path: str) -> bool:
    suffix = Path(name_without_packing(Path(path))).suffix
    return suffix in (*TEXT_SUFFIXES, ".parquet", ".tar") or not may_be_on_hub(path)


def _open_file(path: str, limit: int | None) -> Table:
    suffix = Path(name_without_packing(Path(path))).suffix
    if suffix in TEXT_SUFFIXES:
        return open_text(path, limit)
    if path.lower().endswith(".parquet"):
        return _arrow_rows(open_parquet(path), limit)
    known = ", ".join((".parquet", *TEXT_SUFFIXES, ".tar"))
    raise ValueError(f"{path} is not a data file the kit can read; give one of {known}, or a folder saved by datasets")


def open_dataset(data: datasets.Dataset) -> Table:
    """The rows of a data set that is open already."""
    return _ArrowTable(data)


def _arrow_rows(data: datasets.Dataset, limit: int | None, kind: str = "") -> Table:
    return _ArrowTable(data if limit is None else data.select(range(min(limit, len(data)))), kind)


def _open_folder(folder: Path, limit: int | None, part: HubPart) -> Table:
    """A folder saved by ``datasets``, or one of pictures that a metadata file describes."""
    described = next((folder / name for name in METADATA_FILES if (folder / name).is_file()), None)
    if described is None:
        return _arrow_rows(_open_saved(str(folder), part.split), limit)
    table = _open_file(str(described), limit)
    table.kind = "a folder of pictures"
    return table


def _open_saved(path: str, split: str | None) -> datasets.Dataset:
    _refuse_files_outside(Path(path))
    try:
        data = datasets.load_from_disk(path)
    except (OSError, pyarrow.ArrowException, ValueError, KeyError, TypeError, AttributeError) as error:
        files = ", ".join(METADATA_FILES)
        message = (
            f"{path} is not a folder saved by datasets, or is damaged; to use a .parquet or .jsonl file, name it; "
            f"a folder of pictures needs {files}"
        )
        raise ValueError(message) from error
    if isinstance(data, datasets.Dataset):
        if split is not None:
            raise ValueError(f"{path} is one split, and has no split {split!r}; leave split out")
        return data
    if (split or "train") not in data:
        raise ValueError(f"{path} has no split {split or 'train'!r}; name one of its splits by split: {list(data)}")
    return data[split or "train"]


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


def _open_hub(name: str, part: HubPart) -> datasets.Dataset:
    say_once(f"loading {name} from the hub")
    try:
        with without_progress_bars():
            data = datasets.load_dataset(name, part.config, split=part.split or "train", revision=part.revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        hint = "" if part.split else "; an entry's split, config and revision say which part of it"
        raise ValueError(
            f"{name} is not a local file or folder, and cannot be loaded as a hub data set: {first_line(error)}{hint}"
        ) from error
    assert isinstance(data, datasets.Dataset), data
    return data
