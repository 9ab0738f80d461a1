"""The results as tables: all sections at a glance, then each with its rows."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from benchmarks.gpu_sections.records import OK, SectionResult

FILE_WIDTH = 200
LEAST_COLUMN = 9
"""Characters of a column, borders included, below which words are broken; narrower tables become lists."""


def render(results: Sequence[SectionResult], width: int = FILE_WIDTH) -> str:
    """
    Args:
        width: characters of a line; where a section's columns do not fit, its rows are lists of keys and values
    """
    text = io.StringIO()
    console = Console(file=text, width=width, highlight=False)
    console.print(_summary(results))
    for result in results:
        if result.rows:
            console.print(_section(result, width))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def _summary(results: Sequence[SectionResult]) -> Table:
    table = _table("Sections", ("section", "outcome", "seconds", "limit", "rows", "without values", "error"))
    for result in results:
        lacking = sum(row["status"] != OK for row in result.rows)
        cells = (result.name, result.outcome, f"{result.seconds:.0f}", f"{result.limit_s:.0f}", str(len(result.rows)))
        table.add_row(*cells, str(lacking), result.error)
    return table


def _section(result: SectionResult, width: int) -> RenderableType:
    """Columns in which some row has a value; the status where some row is not ok."""
    idle = (None, "", OK)
    used = [key for key in result.rows[0] if key != "seconds" and any(row.get(key) not in idle for row in result.rows)]
    table = _table(result.name, [column.replace("_", " ") for column in used])
    for row in result.rows:
        table.add_row(*(_cell(row.get(column)) for column in used))
    widest_name = max(len(str(row["name"])) for row in result.rows)
    fits = widest_name + LEAST_COLUMN * len(used) <= width
    return table if fits else _list(result, used)


def _list(result: SectionResult, used: Sequence[str]) -> Text:
    lines = [result.name]
    for row in result.rows:
        lines.append(f"  {row['name']}")
        pairs = ((key.replace("_", " "), _cell(row.get(key))) for key in used if key != "name")
        lines += [f"    {key}: {value}" for key, value in pairs if value]
    return Text("\n".join(lines))


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
