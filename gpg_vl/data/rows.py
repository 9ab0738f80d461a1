"""Matches a file's columns to the kit's and turns each row into a sample; image paths stay inside their folder."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from gpg_vl.data.images import find_image
from gpg_vl.data.json_text import read_object
from gpg_vl.data.schema import KIT_FIELDS, VERSION_FIELD, check_version, read_text
from gpg_vl.data.tables import Table, TableRow
from gpg_vl.own_code import absolute_spec, own_file
from gpg_vl.records import Sample
from gpg_vl.verifiers.answers import strip_answer_tags


def match_columns(
    path: str, available: Sequence[str], columns: Mapping[str, str | None] | None, task: str | None
) -> dict[str, str]:
    """Maps each kit field that the rows have to the file's column.

    Raises:
        ValueError: a field that a sample needs has no column; lists the existing columns
    """
    own = {field: field for field in KIT_FIELDS if field in available}
    if "image" in available:
        own.setdefault("images", "image")
    if columns is None:
        matched = own
    else:
        own.pop("id", None)  # rows from elsewhere get ids from file and row
        matched = {field: column for field, column in {**own, **columns}.items() if column is not None}
    for field, column in matched.items():
        if column not in available:
            raise ValueError(f"{path} has no column {column!r} for columns.{field}; it has {list(available)}")
    _refuse_missing(path, available, matched, columns)
    if "task" not in matched and task is None:
        raise ValueError(f"{path} does not name the task of its rows; set task in the recipe, or add a column task")
    return matched


def _refuse_missing(
    path: str, available: Sequence[str], matched: Mapping[str, str], columns: Mapping[str, str | None] | None
) -> None:
    if columns is None:
        required = ["id", "images", "question", "answer"]
    else:
        without_images = "images" in columns and columns["images"] is None
        required = ["question", "answer"] if without_images else ["images", "question", "answer"]
    missing = [field for field in required if field not in matched]
    if missing:
        example = "{path: ..., columns: {" + ", ".join(f"{field}: NAME" for field in missing if field != "id") + "}}"
        raise ValueError(
            f"{path} has no column {', '.join(missing)}; it has {list(available)}; "
            f"say which of them to use with an entry {example}"
        )


@dataclass(frozen=True)
class LazySamples(Sequence[Sample]):
    """The samples of a table. Accessing a bad row raises ``ValueError`` with the file and the row."""

    path: str
    table: Table
    columns: dict[str, str]  # kit field -> column
    root: Path | None  # resolved folder that image paths must stay in; None allows no paths
    task: str | None
    hosts: Collection[str] = ()  # hosts that images may be fetched from
    own_tasks: Collection[str] = ()  # tasks in files that a row may name, with absolute paths

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        position = range(len(self))[index]
        if isinstance(position, range):
            return [self[i] for i in position]
        try:
            number = position + 1
            default_id = None if "id" in self.columns else f"{self.path}:{number}"
            row = self.table.row(position)
            return make_sample(row, self.columns, self.root, self.task, default_id, self.hosts, self.own_tasks)
        except ValueError as error:
            raise ValueError(f"{self.path}, row {position + 1}: {error}") from error


def make_sample(
    row: TableRow,
    columns: Mapping[str, str],
    root: Path | None,
    task: str | None,
    default_id: str | None,
    hosts: Collection[str] = (),
    own_tasks: Collection[str] = (),
) -> Sample:
    """The sample of one row.

    Args:
        columns: kit field -> column, for the fields that the row has
        root: resolved folder that image paths must stay in; None allows no paths
        task: replaces the row's own task
        default_id: id if the row has none
        hosts: hosts that images may be fetched from
        own_tasks: tasks in files that the row may name, with absolute paths

    Raises:
        ValueError: a field is missing, too long or of the wrong type, or names code; names the field
    """
    check_version(row.get(VERSION_FIELD))
    if "images" in columns and columns["images"] not in row:
        raise ValueError(f"the images are missing: there is no {columns['images']!r}; write [] if a row has no images")
    fields = {field: row.get(column) for field, column in columns.items()}
    taken = {VERSION_FIELD, *columns.values()}
    return Sample(
        id=read_text("id", fields.get("id", default_id)),
        task=task or _read_task(fields.get("task"), own_tasks),
        images=_read_images(fields.get("images"), root, hosts),
        question=read_text("question", fields.get("question")),
        answer=strip_answer_tags(read_text("answer", fields.get("answer"))),
        meta={name: value for name, value in row.items() if name not in taken} | _read_meta(fields.get("meta")),
        own_columns={column: row[column] for field, column in columns.items() if column != field and field in _TEXTS},
    )


def _read_task(value: Any, own_tasks: Collection[str]) -> str:
    """A row is data: the file of a task that it names would run, so the user has to name that file too."""
    task = read_text("task", value)
    if own_file(task) and absolute_spec(task) not in own_tasks:
        raise ValueError(
            f"the task {task[:80]!r} is a file of code, which a row cannot choose; if you trust it, list it in tasks "
            "(--tasks '[FILE.py:CLASS]' of gpg-vl, --allow-task of data_tools)"
        )
    return task


_TEXTS = ("question", "answer", "task")


def _read_meta(value: Any) -> dict[str, Any]:
    try:
        meta = read_object(value) if isinstance(value, str) and value else value or {}
    except ValueError as error:
        raise ValueError(f"meta is text and {error}; write an object of names and values") from error
    if not isinstance(meta, dict):
        raise ValueError(f"meta is a {type(meta).__name__}; make it an object of names and values")
    return meta


def find_image_root(path: str, image_root: str | None) -> Path | None:
    """The folder that image paths are relative to; None for a hub data set, whose images come as bytes."""
    if image_root is not None:
        if not Path(image_root).is_dir():
            raise ValueError(f"data.image_root: no such folder: {image_root}")
        return Path(image_root).resolve()
    location = Path(path)
    if location.is_dir():
        return location.resolve()
    return location.parent.resolve() if location.is_file() else None


def _read_images(value: Any, root: Path | None, hosts: Collection[str]) -> tuple[str | bytes, ...]:
    """The images of one row, given as a list, a single image, or null for none."""
    entries = value if isinstance(value, list) else [] if value is None else [value]
    return tuple(_read_image(entry, root, hosts) for entry in entries)


def _read_image(entry: Any, root: Path | None, hosts: Collection[str]) -> str | bytes:
    if isinstance(entry, Mapping):
        entry = entry.get("path") if entry.get("bytes") is None else entry["bytes"]
    if isinstance(entry, bytes):
        return entry
    if not isinstance(entry, str):
        raise ValueError(f"an image is a {type(entry).__name__}; give a path, or the bytes of an image file")
    return find_image(entry, root, hosts)
