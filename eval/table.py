"""Our numbers next to the paper's, in the terminal and as Markdown.

    python -m eval.table RUN... [--benchmark geoqa] [--out table.md]

RUN is a folder that contains ``results.json`` of benchmarks at any depth, given as ``METHOD=FOLDER`` (base, sft, grpo,
gpg, gpg-official), or just FOLDER for gpg. What was not measured is shown as "not run".
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from gpg_vl.evaluation.scores import Estimate, mean_of
from gpg_vl.files import replace_file
from gpg_vl.processes.command_line import OneLineParser
from gpg_vl.processes.exit_codes import run_command
from gpg_vl.screen import tell

PAPER = Path(__file__).with_name("paper_results.yaml")
METHODS = ("base", "sft", "grpo", "gpg", "gpg-official")
PUBLISHED_AS = {"gpg-official": "gpg"}  # methods that are compared with another method's published number
HEADER = ("figure", "method", "published", "legacy (95 %)", "legacy - published", "strict (95 %)", "rows", "run")
SETS = ("Flower102", "Pets37", "FGVC", "Cars196")
NOT_RUN = "not run"
OTHER_ROWS = "other rows"
LEGEND = (
    "All in percent. legacy: the metric of the published evaluation; strict: the kit's own. The interval of a "
    "difference is that of our number alone: none is published. rows: number of rows, dropped ones included; if they "
    "are not the published ones, nothing is compared. A figure without an interval is not a mean over rows."
)


@dataclass(frozen=True, slots=True)
class Run:
    method: str
    folder: Path  # contains results.json
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
                f"{word}: no results.json of a benchmark in it; python -m eval.NAME --out FOLDER writes one"
            )
        runs += of_benchmarks
    return runs


def _read_results(file: Path) -> dict[str, Any]:
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON; evaluate again") from error
    figures = results.get("figures") if isinstance(results, dict) else None
    if not isinstance(figures, dict):
        return {}  # from another program or from gpg-vl eval
    if not all(isinstance(figure, dict) and {"strict", "legacy", "rows"} <= set(figure) for figure in figures.values()):
        raise ValueError(f"{file} is from another version; run its command again: its predictions are kept")
    return results


def average_of_sets(runs: Sequence[Run]) -> list[Run]:
    """The mean over the 4-shot sets, for each method with one run of every set; one model per set, as published."""
    averages = []
    for method in METHODS:
        of_method = [run for run in runs if run.method == method and run.results["benchmark"] == "fine_grained"]
        measured = [
            (run, run.results["figures"][name]) for run in of_method for name in SETS if name in run.results["figures"]
        ]
        is_there = any("Average" in run.results["figures"] for run in of_method)
        if is_there or len(measured) != len(SETS) or len(of_method) != len(SETS):
            continue
        figures = [figure for _, figure in measured]
        of_all = {key: sum(figure["rows"][key] for figure in figures) for key in figures[0]["rows"]}
        means = {key: asdict(mean_of([Estimate(**figure[key]) for figure in figures])) for key in ("legacy", "strict")}
        notes = "; ".join(dict.fromkeys(run.results["note"] for run in of_method if run.results.get("note")))
        results = {"benchmark": "fine_grained", "note": notes, "figures": {"Average": {**means, "rows": of_all}}}
        averages.append(Run(method, Path("the four below"), results))
    return averages


def make_tables(runs: Sequence[Run], paper: Mapping[str, Any]) -> dict[str, list[tuple[str, ...]]]:
    """Each benchmark's table rows, with the columns of ``HEADER``: all rows of the paper, and those that have a run."""
    runs = [*runs, *average_of_sets(runs)]
    names = [*paper, *sorted({run.results["benchmark"] for run in runs} - set(paper))]
    return {name: _rows([run for run in runs if run.results["benchmark"] == name], paper.get(name)) for name in names}


def _rows(runs: Sequence[Run], published: Mapping[str, Any] | None) -> list[tuple[str, ...]]:
    methods = published["methods"] if published else {}
    figures = [name for values in methods.values() for name in values]
    figures += [name for run in runs for name in run.results["figures"]]
    rows = []
    for figure in dict.fromkeys(figures):
        for method in METHODS:
            value = methods.get(PUBLISHED_AS.get(method, method), {}).get(figure)
            measured = [run for run in runs if run.method == method and figure in run.results["figures"]]
            rows += [_measured_row(figure, run, value) for run in measured]
            if not measured and figure in methods.get(method, {}):
                rows.append((figure, method, f"{value:.2f}", *[NOT_RUN] * 5))
    return rows


def _measured_row(figure: str, run: Run, published: float | None) -> tuple[str, ...]:
    measured = run.results["figures"][figure]
    legacy, strict, rows = measured["legacy"], measured["strict"], measured["rows"]
    if legacy is None:
        difference = NOT_RUN
    elif published is None:
        difference = "none"
    else:
        difference = _interval(legacy, published) if rows["num"] == rows["published"] else OTHER_ROWS
    note = run.results.get("note")
    return (
        figure, run.method, "none" if published is None else f"{published:.2f}", _interval(legacy), difference,
        _interval(strict), _describe_rows(rows), f"{run.folder} ({note})" if note else str(run.folder),
    )  # fmt: skip


def _interval(estimate: Mapping[str, Any] | None, less: float | None = None) -> str:
    """``51.33 [47.8, 54.9]`` in percent, minus ``less``; without an interval if the figure has none."""
    if estimate is None:
        return NOT_RUN
    sign = "" if less is None else "+"
    value, low, high = (
        None if estimate[key] is None else 100 * estimate[key] - (less or 0.0) for key in ("value", "low", "high")
    )
    return f"{value:{sign}.2f}" + ("" if low is None else f" [{low:{sign}.1f}, {high:{sign}.1f}]")


def _describe_rows(rows: Mapping[str, int]) -> str:
    """The number of rows, and how they differ from the published ones."""
    parts = [str(rows["num"]) if rows["num"] == rows["published"] else f"{rows['num']} of {rows['published']}"]
    named = {"dropped": "dropped", "without_image": "without image", "legacy_failures": "legacy failures"}
    return ", ".join(parts + [f"{rows[key]} {name}" for key, name in named.items() if rows[key]])


def write_markdown(tables: Mapping[str, Sequence[tuple[str, ...]]], paper: Mapping[str, Any]) -> str:
    parts = [LEGEND + "\n"]
    for name, rows in tables.items():
        lines = [
            f"## {name}",
            "",
            f"Published: {_source(name, paper)}.",
            "",
            _line(HEADER),
            _line(["---"] * len(HEADER)),
        ]
        parts.append("\n".join([*lines, *map(_line, rows)]) + "\n")
    return "\n".join(parts)


def _source(name: str, paper: Mapping[str, Any]) -> str:
    return str(paper[name]["source"]) if name in paper else "no number in the paper"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def print_tables(tables: Mapping[str, Sequence[tuple[str, ...]]], paper: Mapping[str, Any]) -> None:
    for name, rows in tables.items():
        tell(f"\n{name}: {_source(name, paper)}")
        widths = [max(len(row[n]) for row in [HEADER, *rows]) for n in range(len(HEADER))]
        for row in [HEADER, *rows]:
            tell("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    tell(f"\n{textwrap.fill(LEGEND, 120)}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = OneLineParser(prog="python -m eval.table", description="Our numbers next to the paper's.")
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help=f"FOLDER or METHOD=FOLDER, METHOD one of {' '.join(METHODS)}"
    )
    parser.add_argument("--benchmark", help="show only this benchmark")
    parser.add_argument("--out", type=Path, help="also write a Markdown file")
    return run_command("eval.table", lambda: _run(parser.parse_args(argv)))


def _run(options: argparse.Namespace) -> None:
    paper = yaml.safe_load(PAPER.read_text(encoding="utf-8"))
    tables = make_tables(read_runs(options.runs), paper)
    if options.benchmark is not None:
        if options.benchmark not in tables:
            raise ValueError(f"--benchmark: unknown benchmark {options.benchmark!r}; there are {', '.join(tables)}")
        tables = {options.benchmark: tables[options.benchmark]}
    if options.out is not None:
        if options.out.suffix != ".md":
            raise ValueError(f"--out {options.out}: the table is Markdown; give a name that ends in .md")
        replace_file(options.out, write_markdown(tables, paper))
    print_tables(tables, paper)


if __name__ == "__main__":
    sys.exit(main())
