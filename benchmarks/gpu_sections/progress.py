"""The file of rows: what a section measures now and what it has measured, a line of JSON each, written at once.

A row that was begun and has no values when the process is gone becomes one with the status "not finished".
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.gpu_sections.records import NOT_FINISHED, Row


class Journal:
    """Of the process of one section. Without a file it keeps nothing."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._section = ""

    def open(self, path: Path, section: str) -> None:
        self._path, self._section = path, section

    def started(self, row: Row) -> None:
        """
        Args:
            row: what is known of it before it is measured
        """
        self.write({"started": asdict(row), "at": time.monotonic()})

    def write(self, record: Mapping[str, Any]) -> None:
        if self._path is not None:
            append(self._path, {"section": self._section, **record})


JOURNAL = Journal()


def append(path: Path, record: Mapping[str, Any]) -> None:
    """A line of its own, in one write: the process of another section may add one, or have left half of one."""
    with path.open("ab+") as file:
        start = "\n" if is_torn(path) else ""
        file.write(f"{start}{json.dumps(record)}\n".encode())


def is_torn(path: Path) -> bool:
    """Whether the last line was cut off when its process ended."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 1))
        return file.read(1) not in (b"", b"\n")


def read_rows(path: Path, name: str, ended_at: float) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The section's rows, and what it said when it failed. A line that was cut off is left out.

    Args:
        ended_at: time.monotonic() when the section ended; a row that was not finished lasted until then
    """
    records = []
    for line in path.read_text(errors="replace").splitlines():
        with suppress(ValueError):
            records.append(json.loads(line))
    records = [record for record in records if record["section"] == name]
    rows = [record["row"] for record in records if "row" in record]
    written = [record for record in records if "row" in record or "started" in record]
    if written and "started" in written[-1]:
        begun = written[-1]
        rows.append({**begun["started"], "status": NOT_FINISHED, "seconds": ended_at - begun["at"]})
    return rows, next((record for record in records if "error" in record), {})
