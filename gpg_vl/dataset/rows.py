"""Matches a file's columns to the kit's and makes a sample of each row; image paths stay inside their folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from gpg_vl.dataset.tables import Row, Table
from gpg_vl.records import Sample
from gpg_vl.verifiers.answers import strip_answer_tags

KIT_FIELDS = ("id", "task", "images", "question", "answer", "meta")


def match_columns(
    path: str, available: Sequence[str], columns: Mapping[str, str | None] | None, task: str | None
) -> dict[str, str]:
    """Kit field to the file's column, for every field that the rows have.

    Raises:
        ValueError: a field that a sample needs has no column; names the columns that there are
    """
    own = {field: field for field in KIT_FIELDS if field in available}
    if "image" in available:
        own.setdefault("images", "image")
    if columns is None:
        matched = own
    else:
        own.pop("id", None)  # rows of other makes are named by file and row
        matched = {field: column for field, column in {**own, **columns}.items() if column is not None}
    for field, column in matched.items():
        if column not in available:
            raise ValueError(f"{path} has no column {column!r} for columns.{field}; it has {list(available)}")
    _refuse_missing(path, available, matched, columns)
    if "task" not in matched and task is None:
        raise ValueError(f"{path} does not say whose task its rows are; set task in the recipe, or add a column task")
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
            f"say which of them to take by an entry {example}"
        )


@dataclass(frozen=True)
class LazySamples(Sequence[Sample]):
    """The samples of a table. A bad row raises ``ValueError`` with the file and the row when it is asked for."""

    path: str
    table: Table
    columns: dict[str, str]  # kit field -> column
    root: Path | None  # resolved folder that image paths must stay in; None allows no paths
    task: str | None

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
            return self._make_sample(self.table.row(position), position + 1)
        except ValueError as error:
            raise ValueError(f"{self.path}, row {position + 1}: {error}") from error

    def _make_sample(self, row: Row, number: int) -> Sample:
        fields = {field: row.get(column) for field, column in self.columns.items()}
        taken = set(self.columns.values())
        default_id = None if "id" in self.columns else f"{self.path}:{number}"
        return Sample(
            id=_read_text("id", fields.get("id", default_id)),
            task=self.task or _read_text("task", fields.get("task")),
            images=_read_images(fields.get("images"), self.root),
            question=_read_text("question", fields.get("question")),
            answer=strip_answer_tags(_read_text("answer", fields.get("answer"))),
            meta={name: value for name, value in row.items() if name not in taken} | _read_meta(fields.get("meta")),
        )


def _read_text(field: str, value: Any) -> str:
    if value is None or value == "":
        raise ValueError(f"the {field} is missing")
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _read_meta(value: Any) -> dict[str, Any]:
    try:
        meta = json.loads(value) if isinstance(value, str) and value else value or {}
    except (ValueError, RecursionError) as error:
        raise ValueError("meta is text but no JSON; write an object of names and values") from error
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


def _read_images(value: Any, root: Path | None) -> tuple[str | bytes, ...]:
    """The images of one row: a list, a single one, or null for none."""
    entries = value if isinstance(value, list) else [] if value is None else [value]
    return tuple(_read_image(entry, root) for entry in entries)


def _read_image(entry: Any, root: Path | None) -> str | bytes:
    if isinstance(entry, Mapping):
        entry = entry.get("path") if entry.get("bytes") is None else entry["bytes"]
    if isinstance(entry, bytes):
        return entry
    if not isinstance(entry, str):
        raise ValueError(f"an image is a {type(entry).__name__}; give a path, or the bytes of an image file")
    if "://" in entry or entry.startswith("data:"):
        raise ValueError(f"image {entry[:80]!r} is a URL; download it and give its path")
    return _find_image(entry, root)


def _find_image(entry: str, root: Path | None) -> str:
    if root is None:
        raise ValueError(
            f"image {entry!r} is not in the hub data set itself; set data.image_root to the images' folder"
        )
    try:
        path = (root / entry).resolve()
        if not path.is_relative_to(root):
            raise ValueError(f"image {entry!r} is outside of {root}; set data.image_root to a folder that holds it")
    except (OSError, RuntimeError) as error:  # a name too long, a loop of links
        raise ValueError(f"image {entry[:80]!r} is no usable path ({type(error).__name__})") from error
    return str(path)
