"""The results as tables: all sections at a glance, then each with its rows."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.gpu_sections.records import OK, SectionResult

WIDTH = 200


def render(results: Sequence[SectionResult]) -> str:
    text = io.StringIO()
    console = Console(file=text, width=WIDTH)
    console.print(_summary(results))
    for result in results:
        if result.rows:
            console.print(_section(result))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def _summary(results: Sequence[SectionResult]) -> Table:
    table = _table("Sections", ("section", "outcome", "seconds", "limit", "rows", "without values", "error"))
    for result in results:
        lacking = sum(row["status"] != OK for row in result.rows)
        cells = (result.name, result.outcome, f"{result.seconds:.0f}", f"{result.limit_s:.0f}", str(len(result.rows)))
        table.add_row(*cells, str(lacking), result.error)
    return table


def _section(result: SectionResult) -> Table:
    """Columns in which some row has a value; the status where some row is not ok."""
    idle = (None, "", OK)
    columns = [key for key in result.rows[0] if any(row.get(key) not in idle for row in result.rows)]
    table = _table(result.name, [column.replace("_", " ") for column in columns])
    for row in result.rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in ("name", "section", "outcome"))
    return table


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_cell(each)}" for key, each in value.items())
    return "" if value is None else str(value)
