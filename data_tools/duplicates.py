"""Finds duplicate rows, and training rows with a test image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from data_tools.likeness import Album
from data_tools.row_checks import Finding


@dataclass(frozen=True, slots=True)
class KnownRow:
    """What is kept of a row to compare it with other rows."""

    file: str
    number: int  # counted from 1
    id: str  # "" if the row could not be read
    question: bytes  # digest of its words; b"" if the row itself is bad
    pictures: tuple[int, ...]  # numbers in the album


Found = Iterator[tuple[KnownRow, Finding]]


def find_repeated_ids(rows: Sequence[KnownRow]) -> Found:
    first: dict[str, KnownRow] = {}
    for row in rows:
        earlier = first.setdefault(row.id, row) if row.id else row
        if earlier is not row:
            yield _describe(row, "id", f"{_place(row, earlier)} has the same; make the ids unique")


def find_duplicates(rows: Sequence[KnownRow], album: Album) -> Found:
    """Rows with the same question and images as an earlier row."""
    groups: dict[tuple[bytes, int], list[KnownRow]] = defaultdict(list)
    for row in rows:
        if row.question:
            groups[row.question, len(row.pictures)].append(row)
    for (_, num_pictures), group in groups.items():
        pictures = [row.pictures for row in group]
        pairs = album.find_first(pictures, pictures, earlier_alone=True) if num_pictures else _pairs_with_first(group)
        for place, earlier in pairs:
            text = f"question and images are the same as in {_place(group[place], group[earlier])}; drop one of the two"
            yield _describe(group[place], "duplicate", text)


def _pairs_with_first(group: Sequence[KnownRow]) -> Iterator[tuple[int, int]]:
    return ((place, 0) for place in range(1, len(group)))


def find_leaks(train: Sequence[KnownRow], test: Sequence[KnownRow], album: Album) -> Found:
    """Training rows with a test image, whatever is asked about it; rows without images, if the question is the same."""
    pictures = [(row, number) for row in train for number in row.pictures]
    held_out = [(row, number) for row in test for number in row.pictures]
    reported: set[int] = set()
    for place, first in album.find_first([(n,) for _, n in pictures], [(n,) for _, n in held_out]):
        row, other = pictures[place][0], held_out[first][0]
        if id(row) not in reported:
            reported.add(id(row))
            yield _describe(row, "leak", f"its image also occurs in {_place(row, other)}; do not train on it")
    questions = {row.question: row for row in test if row.question and not row.pictures}
    for row in train:
        if not row.pictures and row.question in questions:
            other = questions[row.question]
            yield _describe(row, "leak", f"its question also occurs in {_place(row, other)}; do not train on it")


def _describe(row: KnownRow, field: str, text: str) -> tuple[KnownRow, Finding]:
    return row, Finding(row.number, row.id, field, text)


def _place(row: KnownRow, other: KnownRow) -> str:
    return f"row {other.number}" if other.file == row.file else f"{other.file}, row {other.number}"
