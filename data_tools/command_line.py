"""The command line that every converter has: ``--source``, ``--out``, ``--limit``, and its own options."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from data_tools.conversion import MakeSamples, convert
from data_tools.sources import SourceRow

Plan = Callable[[Namespace], tuple[Iterable[SourceRow], MakeSamples]]
"""From the options to the rows of the source and what is made of each."""


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see --help")


def make_parser(name: str, description: str, hub: str | None = None) -> ArgumentParser:
    """A parser of the shared options; ``hub`` is the published name, which ``--source`` may leave out."""
    parser = _Parser(
        prog=f"python -m data_tools.{name}", description=description, formatter_class=RawDescriptionHelpFormatter
    )
    where = "file or folder of the published data" + ("" if hub is None else f", or its name on the hub ({hub})")
    parser.add_argument("--source", required=hub is None, default=hub, help=where)
    parser.add_argument("--out", required=True, metavar="FILE", help="FILE.parquet or FILE.jsonl; replaced if there")
    parser.add_argument("--limit", type=_count, help="first so many rows of the source, dropped ones included")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise ValueError
    return int(text)


def run_converter(parser: ArgumentParser, plan: Plan, argv: Sequence[str] | None) -> int:
    """Runs the command; returns the exit code, 2 after a mistake that one line on stderr explains."""
    try:
        options = parser.parse_args(argv)
        rows, make_samples = plan(options)
        counts = convert(options.source, rows, make_samples, options.out, options.limit)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.out}: " + "\n".join(counts.lines()))
    return 0
