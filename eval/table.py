"""Our numbers beside the paper's, in the terminal and as Markdown.

    python -m eval.table RUN... [--benchmark geoqa] [--out table.md]

RUN is a folder with ``results.json`` of benchmarks somewhere below it, as ``METHOD=FOLDER`` (base, sft, grpo, gpg) or
plainly, for gpg. What was not measured says "not run". A difference is legacy minus paper, with the interval of ours
alone: the paper reports none.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

PAPER = Path(__file__).with_name("paper_results.yaml")
METHODS = ("base", "sft", "grpo", "gpg")
HEADER = ("figure", "method", "published", "legacy (95 %)", "legacy - published", "strict (95 %)", "rows", "run")
NOT_RUN = "not run"


@dataclass(frozen=True, slots=True)
class Run:
    method: str
    folder: Path  # that holds results.json
    results: Mapping[str, Any]


def read_runs(words: Sequence[str]) -> list[Run]:
    """
    Raises:
        ValueError: a folder without results of a benchmark, or an unknown method
    """
    runs = []
    for word in words:
        method, equals, path = word.partition("=")
        method, folder = (method, Path(path)) if equals and method in METHODS else ("gpg", Path(word))
        found = [Run(method, file.parent, _read_results(file)) for file in sorted(folder.rglob("results.json"))]
        of_benchmarks = [run for run in found if run.results.get("figures")]
        if not of_benchmarks:
            raise ValueError(
                f"{word}: no results.json of a benchmark in it; python -m eval.NAME --out FOLDER makes one"
            )
        runs += of_benchmarks
    return runs


def _read_results(file: Path) -> dict[str, Any]:
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON; evaluate again") from error
    return results if isinstance(results, dict) else {}


def make_tables(runs: Sequence[Run], paper: Mapping[str, Any]) -> dict[str, list[tuple[str, ...]]]:
    """The rows under ``HEADER`` of each benchmark: all of the paper's, and those that have a run."""
    names = [*paper, *sorted({run.results["benchmark"] for run in runs} - set(paper))]
    return {name: _rows([run for run in runs if run.results["benchmark"] == name], paper.get(name)) for name in names}


def _rows(runs: Sequence[Run], published: Mapping[str, Any] | None) -> list[tuple[str, ...]]:
    methods = published["methods"] if published else {}
    figures = [*dict.fromkeys(name for values in methods.values() for name in values)]
    figures += [name for run in runs for name in run.results["figures"] if name not in figures]
    rows = []
    for figure in dict.fromkeys(figures):
        for method in METHODS:
            value = methods.get(method, {}).get(figure)
            measured = [run for run in runs if run.method == method and figure in run.results["figures"]]
            rows += [_measured_row(figure, run, value) for run in measured]
            if not measured and value is not None:
                rows.append((figure, method, f"{value:.2f}", NOT_RUN, NOT_RUN, NOT_RUN, NOT_RUN, NOT_RUN))
    return rows


def _measured_row(figure: str, run: Run, published: float | None) -> tuple[str, ...]:
    both = run.results["figures"][figure]
    paper = "none" if published is None else f"{published:.2f}"
    difference = NOT_RUN
    if both["legacy"] is not None:
        difference = "none" if published is None else _interval(both["legacy"], published)
    return (
        figure, run.method, paper, _interval(both["legacy"]), difference, _interval(both["strict"]),
        _count_rows(run), str(run.folder),
    )  # fmt: skip


def _interval(estimate: Mapping[str, Any] | None, less: float = 0.0) -> str:
    """``51.33 [47.8, 54.9]`` in percent, all of it less a number; without an interval where the figure has none."""
    if estimate is None:
        return NOT_RUN
    value, low, high = (100 * estimate[key] - less for key in ("value", "low", "high"))
    sign = "+" if less else ""
    return f"{value:{sign}.2f}" + (f" [{low:{sign}.1f}, {high:{sign}.1f}]" if low < high else "")


def _count_rows(run: Run) -> str:
    """Rows of all splits, dropped ones included; and whatever makes the figures others than the published ones."""
    counts = run.results["num_rows"].values()
    num, published = (sum(each[key] for each in counts) for key in ("num", "published"))
    dropped = sum(each["dropped"] for each in counts)
    failures = sum(score["num_legacy_failures"] for score in run.results["tasks"].values())
    parts = [str(num + dropped) if num + dropped == published else f"{num + dropped} of {published}"]
    parts += [f"{dropped} dropped"] if dropped else []
    parts += [f"{failures} legacy failures"] if failures else []
    return ", ".join(parts)


def write_markdown(tables: Mapping[str, Sequence[tuple[str, ...]]], paper: Mapping[str, Any]) -> str:
    parts = []
    for name, rows in tables.items():
        source = paper[name]["source"] if name in paper else "no number of the paper"
        lines = [f"## {name}", "", f"Published: {source}.", "", _line(HEADER), _line(["---"] * len(HEADER))]
        parts.append("\n".join([*lines, *map(_line, rows)]) + "\n")
    return "\n".join(parts)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def print_tables(tables: Mapping[str, Sequence[tuple[str, ...]]], paper: Mapping[str, Any]) -> None:
    for name, rows in tables.items():
        print(f"\n{name}: {paper[name]['source'] if name in paper else 'no number of the paper'}")
        widths = [max(len(row[n]) for row in [HEADER, *rows]) for n in range(len(HEADER))]
        for row in [HEADER, *rows]:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.table", description="Our numbers beside the paper's.")
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="FOLDER or METHOD=FOLDER, METHOD one of base sft grpo gpg"
    )
    parser.add_argument("--benchmark", help="this one alone")
    parser.add_argument("--out", type=Path, help="Markdown file to write as well")
    options = parser.parse_args(argv)
    paper = yaml.safe_load(PAPER.read_text(encoding="utf-8"))
    try:
        tables = make_tables(read_runs(options.runs), paper)
        if options.benchmark is not None:
            if options.benchmark not in tables:
                raise ValueError(f"--benchmark: {options.benchmark!r} is not known; there are {', '.join(tables)}")
            tables = {options.benchmark: tables[options.benchmark]}
        if options.out is not None:
            options.out.write_text(write_markdown(tables, paper), encoding="utf-8")
    except (ValueError, OSError) as error:
        print(f"eval.table: {error}", file=sys.stderr)
        return 2
    print_tables(tables, paper)
    return 0


if __name__ == "__main__":
    sys.exit(main())
