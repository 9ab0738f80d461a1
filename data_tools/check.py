"""Checks every row before training: prints a table of what is wrong and, with ``--fix drop``, writes a clean copy.

    python -m data_tools.check data/train.parquet --test data/test.parquet --model Qwen/Qwen2.5-VL-3B-Instruct
    python -m data_tools.check data/train.parquet --test data/test.parquet --fix drop --out data/clean

Every image is opened in worker processes, and every gold answer must earn full marks in its own task. Duplicate rows,
and training rows with a test image, are also found if the image was rescaled or recompressed. With ``--model``, each
prompt must fit the model's context together with a completion.

The exit code is 0 if every row is good, 1 if one is not, and 2 if the command or a file cannot be used.
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import datasets

from data_tools.clean_copy import plan_copies, write_copy
from data_tools.command_line import (
    add_model_options,
    add_row_options,
    count,
    read_data_file,
    read_model,
    run_command,
)
from data_tools.file_checks import Report, check_files
from data_tools.row_checks import Finding
from gpg_vl.config import RolloutConfig
from gpg_vl.data.media_markers import IMAGE_MARKER
from gpg_vl.processes.command_line import OneLineParser
from gpg_vl.screen import printable, tell

if TYPE_CHECKING:
    from data_tools.prompt_reader import Lengths, PromptMeter

MAX_ID_CHARS = 32
MAX_LISTED = 10  # rows in a note


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    datasets.disable_progress_bars()
    return run_command(lambda: _run(_parse(argv)))


def _parse(argv: Sequence[str] | None) -> Namespace:
    parser = OneLineParser(
        prog="python -m data_tools.check", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="*", metavar="DATA", help="files of rows; training data if --test is given")
    parser.add_argument(
        "--test", nargs="+", default=[], metavar="DATA", help="test files; DATA must not contain their images"
    )
    add_row_options(parser)
    add_model_options(parser)
    new_tokens = RolloutConfig().max_new_tokens
    parser.add_argument(
        "--max-new-tokens", type=count, default=new_tokens, help=f"maximum length of a completion ({new_tokens})"
    )
    parser.add_argument("--fix", choices=["drop"], help="write a copy of each file without its bad rows")
    parser.add_argument("--out", metavar="DIR", help="folder for the copies: NAME.parquet, with its images inside")
    parser.add_argument(
        "--workers", type=count, default=len(os.sched_getaffinity(0)), help="worker processes; default: one per core"
    )
    options = parser.parse_args(argv)
    if not options.data and not options.test:
        raise ValueError("name at least one file of rows; see --help")
    if (options.fix is None) != (options.out is None):
        raise ValueError("--fix drop and --out DIR go together")
    return options


def _run(options: Namespace) -> int:
    train, test = ([read_data_file(path, options) for path in paths] for paths in (options.data, options.test))
    copies = plan_copies([*train, *test], options.out) if options.fix else {}
    report = check_files(train, test, _make_meter(options), options.workers)
    tell("\n".join(_describe(report)))
    for file, target in copies.items():
        num_kept = write_copy(file, report.bad_rows(file.path), target)
        tell(f"{target}: {num_kept} rows written")
    if report.num_bad and not copies:
        tell("correct them, or write a copy without them: --fix drop --out DIR")
    return 1 if report.num_bad and not copies else 0


def _make_meter(options: Namespace) -> PromptMeter | None:
    model = read_model(options)
    if model is None:
        return None
    from data_tools.prompt_reader import PromptMeter, PromptReader  # imports torch, which the workers do not need

    return PromptMeter(PromptReader(model), options.max_new_tokens)


def _describe(report: Report) -> list[str]:
    """The report as lines of text."""
    lines = list(report.readings)
    for path, num_rows in report.num_rows.items():
        num_bad = len(report.bad_rows(path))
        lines.append(f"{path}: {num_rows} rows, {num_bad or 'none'} of them bad")
        lines += _tabulate(report.findings[path])
        if report.marker_rows[path]:
            rows = ", ".join(map(str, report.marker_rows[path][:MAX_LISTED]))
            num = len(report.marker_rows[path])
            lines.append(f"  note: {IMAGE_MARKER} stays text in {num} rows without images (row {rows})")
    if report.lengths is not None:
        lines.append(_describe_lengths(report.lengths))
    return lines


def _tabulate(findings: Sequence[Finding]) -> list[str]:
    if not findings:
        return []
    cells = [("row", "id", "field", "what is wrong")]
    for finding in sorted(findings, key=lambda finding: finding.row):
        shown_id = finding.id if len(finding.id) <= MAX_ID_CHARS else finding.id[: MAX_ID_CHARS - 1] + "…"
        cells.append((str(finding.row), printable(shown_id), finding.field, printable(finding.text)))
    widths = [max(len(row[column]) for row in cells) for column in range(3)]
    return [f"  {row[0]:>{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:<{widths[2]}}  {row[3]}" for row in cells]


def _describe_lengths(lengths: Lengths) -> str:
    if not lengths.num:
        return "prompts: none could be measured"
    mean = lengths.total / lengths.num
    return f"prompts: {mean:.0f} tokens on average, {lengths.longest} at most ({lengths.longest_at})"


if __name__ == "__main__":
    sys.exit(main())
