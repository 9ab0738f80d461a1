"""A data file, a folder saved by ``datasets`` or a hub name -> samples, made on access. No image is opened here.

Rows have the kit's columns (the fields of ``Sample``), or other columns that an entry's ``columns`` maps to them.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from gpg_vl.data.rows import GivenColumns, LazySamples, find_image_root, match_columns
from gpg_vl.data.schema import KIT_FIELDS
from gpg_vl.data.tables import HubPart, Table, open_table
from gpg_vl.data.writing import write_jsonl, write_parquet
from gpg_vl.records import Sample
from gpg_vl.user_code import absolute_spec

__all__ = ["Source", "load_source", "write_jsonl", "write_parquet"]

_PART_KEYS = ("split", "revision", "config")
ENTRY_KEYS = ("path", "weight", "columns", *_PART_KEYS)


@dataclass(frozen=True)
class Source:
    """One entry of ``data.train`` or ``data.eval``: ``Source("data/train.parquet", 1.0, samples)``."""

    name: str  # path or hub name as in the recipe
    weight: float  # its share of the drawn samples, relative to the other sources
    samples: Sequence[Sample]  # each made on access
    reading: str = ""  # how the rows are read, in a line, if they are in no shape of the kit's own
    root: Path | None = None  # folder of the images that are files
    has_ids: bool = True  # whether the rows name themselves; else file and row do


def load_source(
    entry: str | Mapping[str, Any],
    image_root: str | None = None,
    task: str | None = None,
    limit: int | None = None,
    image_hosts: Collection[str] = (),
    check_ids: bool = True,
    own_tasks: Collection[str] = (),
) -> Source:
    """Opens a source and matches its columns; rows are read on access.

    Args:
        entry: a path or hub name, or a dict with ``path`` and optionally ``weight``, ``columns`` (kit field -> the
            file's column; ``images: null`` if the file has none), and of a hub set ``split``, ``revision``, ``config``
        image_root: folder that image paths are relative to and must stay inside; None: the data file's own folder
        task: replaces the task of every row
        limit: use only the first N rows; None: all
        image_hosts: hosts that images may be fetched from; empty: every URL is refused
        check_ids: whether a repeated id is an error
        own_tasks: tasks in files that rows may name, as FILE.py:CLASS; empty: a row that names a file is refused

    Raises:
        ValueError: names the entry, the column or row, and the way out
    """
    path, weight, columns, part = _read_entry(entry)
    table = open_table(path, limit, part)
    root = find_image_root(path, image_root)
    allowed = frozenset(map(absolute_spec, own_tasks))
    return replace(match_table(path, table, columns, task, root, image_hosts, check_ids, allowed), weight=weight)


def match_table(
    path: str,
    table: Table,
    columns: GivenColumns | None,
    task: str | None,
    root: Path | None,
    image_hosts: Collection[str] = (),
    check_ids: bool = True,
    own_tasks: Collection[str] = (),
) -> Source:
    """The samples of a table's rows, as ``load_source`` makes them of a file's.

    Args:
        path: what messages call the table
        root: resolved folder that image paths must stay in; None allows no paths
        own_tasks: with absolute paths
    """
    if not len(table):
        raise ValueError(f"{path} has no rows; fill it or remove it")
    matched = match_columns(path, table.column_names, columns, task, table.kind)
    samples = LazySamples(path, table, matched, root, task, image_hosts, own_tasks)
    id_column = matched.columns.get("id")
    if check_ids and isinstance(id_column, str) and id_column in table.column_names:
        _refuse_repeated_ids(path, table.column(id_column))
    reading = matched.reading and f"{path}: {matched.reading}"
    return Source(path, 1.0, samples, reading, root, has_ids=id_column is not None)


class _Entry(NamedTuple):
    path: str
    weight: float
    columns: GivenColumns | None
    part: HubPart


def _read_entry(entry: str | Mapping[str, Any]) -> _Entry:
    if isinstance(entry, str):
        return _Entry(entry, 1.0, None, HubPart())
    _refuse_unknown("key", entry, ENTRY_KEYS, "an entry of data.train or data.eval")
    path, weight, columns = entry.get("path"), entry.get("weight", 1.0), entry.get("columns")
    if not isinstance(path, str) or not path:
        raise ValueError(f"an entry of data.train or data.eval has no path: {dict(entry)}; write {{path: FILE}}")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
        raise ValueError(f"{path}: weight is {weight!r}; make it a number above 0")
    if columns is not None:
        if not isinstance(columns, Mapping):
            raise ValueError(f"{path}: columns is {columns!r}; write a mapping such as {{question: problem}}")
        _refuse_unknown("field", columns, KIT_FIELDS, f"columns of {path}")
        for field, column in columns.items():
            _refuse_no_name(f"{path}: columns.{field}", column, may_be_several=field == "images")
    return _Entry(path, float(weight), columns, _read_part(path, entry))


def _refuse_no_name(key: str, column: Any, may_be_several: bool) -> None:
    several = may_be_several and isinstance(column, list | tuple) and len(column) > 0
    for name in column if several else [column]:
        if not (isinstance(name, str) and name) and (several or name is not None):
            raise ValueError(f"{key} is {column!r}; write the name of a column")


def _read_part(path: str, entry: Mapping[str, Any]) -> HubPart:
    for key in _PART_KEYS:
        value = entry.get(key)
        if value is not None and (not isinstance(value, str) or not value):
            raise ValueError(f"{path}: {key} is {value!r}; write its name, as {key}: {dict(_EXAMPLES)[key]}")
    return HubPart(*(entry.get(key) for key in _PART_KEYS))


_EXAMPLES = (("split", "validation"), ("revision", "main"), ("config", "default"))


def _refuse_unknown(what: str, given: Iterable[str], known: Sequence[str], where: str) -> None:
    for name in given:
        if name not in known:
            nearest = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {nearest[0]!r}? " if nearest else ""
            raise ValueError(f"{where} has an unknown {what} {name!r}; {hint}known: {list(known)}")


def _refuse_repeated_ids(path: str, ids: Sequence[Any]) -> None:
    first_rows: dict[str, int] = {}
    for number, sample_id in enumerate(ids, start=1):
        first = number if sample_id is None else first_rows.setdefault(str(sample_id), number)
        if first != number:
            raise ValueError(f"{path}, row {number}: has the id {sample_id!r} of row {first}; make the ids unique")
