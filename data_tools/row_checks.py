"""What is wrong with one row, found by opening its images and scoring its gold answer. Runs in worker processes.

What comes back is small: of an image its size, its fingerprint and a small copy, for the comparison of rows.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from data_tools.faults import find_answer_fault
from data_tools.likeness import Picture, look_at
from gpg_vl.data.images import open_image
from gpg_vl.data.rows import LazySamples
from gpg_vl.data.schema import KIT_FIELDS, VERSION_FIELD
from gpg_vl.data.sources import Source, load_source
from gpg_vl.records import Sample

_FIELD = re.compile(rf"\b({VERSION_FIELD}|id|task|image|question|answer|meta)s?\b")


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file that is checked, as ``load_source`` takes it."""

    path: str
    columns: tuple[tuple[str, str | None], ...] = ()
    task: str | None = None
    image_root: str | None = None
    image_hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with one row: ``Finding(3, "r-3", "images", "cannot open image ...; replace it")``."""

    row: int  # 1 is the first
    id: str  # "" where the row gives none
    field: str  # a field of the row; "duplicate" or "leak" where it is too like another row
    text: str  # what is wrong; the way out


@dataclass(frozen=True, slots=True)
class CheckedRow:
    """A row after its check."""

    number: int  # 1 is the first
    id: str
    finding: Finding | None
    pictures: tuple[Picture, ...] = ()
    question: bytes = field(default=b"", repr=False)  # digest of its words


@lru_cache(maxsize=8)
def open_file(file: DataFile) -> Source:
    """The rows of a file, an id that occurs twice included: that is a finding.

    Raises:
        ValueError: the file cannot be read at all; names it
    """
    entry: Mapping[str, object] = {"path": file.path, "columns": dict(file.columns) if file.columns else None}
    return load_source(entry, file.image_root, file.task, image_hosts=file.image_hosts, check_ids=False)


def check_range(file: DataFile, start: int, stop: int) -> list[CheckedRow]:
    """The rows from ``start`` up to ``stop``, 0 the first."""
    return [check_row(file, index) for index in range(start, stop)]


def check_row(file: DataFile, index: int) -> CheckedRow:
    """Checks one row by itself; 0 is the first."""
    number = index + 1
    try:
        sample = open_file(file).samples[index]
    except ValueError as error:
        reason = str(error).removeprefix(f"{file.path}, row {number}: ")
        known_id = _find_id(file, index)
        return CheckedRow(number, known_id, Finding(number, known_id, _name_field(reason), _with_way_out(reason)))
    try:
        images = [open_image(source, file.image_hosts) for source in sample.images]
    except ValueError as error:
        return CheckedRow(number, sample.id, Finding(number, sample.id, "images", f"{error}; replace it"))
    pictures = tuple(map(look_at, images))
    return CheckedRow(number, sample.id, _find_in_answer(number, sample, pictures), pictures, _digest(sample.question))


def _find_id(file: DataFile, index: int) -> str:
    """The id of a row that makes no sample; "" where that is what is missing, or the row is none at all."""
    samples = open_file(file).samples
    assert isinstance(samples, LazySamples), file
    try:
        value = samples.table.row(index).get(samples.columns.get("id", ""))
    except ValueError:
        return ""
    return str(value) if isinstance(value, str | int) else ""


def _with_way_out(reason: str) -> str:
    return reason if "; " in reason else f"{reason}; correct it"


def _name_field(reason: str) -> str:
    """The field that a message names first; every message about a row begins with one."""
    found = _FIELD.search(reason)
    name = found[1] if found else "row"
    return f"{name}s" if f"{name}s" in KIT_FIELDS else name


def _find_in_answer(number: int, sample: Sample, pictures: tuple[Picture, ...]) -> Finding | None:
    fault = find_answer_fault(sample, [picture.size for picture in pictures])
    if fault is None:
        return None
    field_name = "task" if fault.reason in ("the task fails", "there is no such task") else "answer"
    return Finding(number, sample.id, field_name, _with_way_out(fault.detail))


def _digest(text: str) -> bytes:
    """The same for texts of the same words, whatever their case and spacing."""
    return hashlib.blake2b(" ".join(text.lower().split()).encode(), digest_size=16).digest()
