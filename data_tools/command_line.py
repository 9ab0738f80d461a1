"""What command lines share: options of converters (``--source``, ``--out``, ``--limit``), of rows, and of a model."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from data_tools.conversion import MakeSamples, convert
from data_tools.row_checks import DataFile
from data_tools.sources import SourceRow
from gpg_vl.config import DataConfig, ModelConfig
from gpg_vl.data.schema import KIT_FIELDS
from gpg_vl.processes.interrupts import INTERRUPTS, Interrupted

Plan = Callable[[Namespace], tuple[Iterable[SourceRow], MakeSamples]]
"""From the options to the rows of the source and what is made of each."""


class Parser(ArgumentParser):
    """A mistake is a ``ValueError`` of one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see --help")


def make_parser(name: str, description: str, hub: str | None = None) -> ArgumentParser:
    """A parser of the shared options; ``hub`` is the published name, which ``--source`` may leave out."""
    parser = Parser(
        prog=f"python -m data_tools.{name}", description=description, formatter_class=RawDescriptionHelpFormatter
    )
    where = "file or folder of the published data" + ("" if hub is None else f", or its name on the hub ({hub})")
    parser.add_argument("--source", required=hub is None, default=hub, help=where)
    parser.add_argument("--out", required=True, metavar="FILE", help="FILE.parquet or FILE.jsonl; replaced if there")
    parser.add_argument("--limit", type=count, help="first so many rows of the source, dropped ones included")
    parser.set_defaults(image_hosts=[])  # published rows have no URLs, rows of one's own may (add_row_options)
    return parser


def add_row_options(parser: ArgumentParser) -> None:
    """How the rows of a data file are read: ``data`` and ``task`` of a recipe."""
    parser.add_argument("--task", help="task of every row; left out, each row's own")
    parser.add_argument("--columns", nargs="+", default=[], metavar="FIELD=COLUMN", help="the file's name of a field")
    parser.add_argument("--image-root", metavar="DIR", help="folder of the image paths; left out, the data file's own")
    parser.add_argument("--image-hosts", nargs="+", default=[], metavar="HOST", help="hosts that image URLs may name")


def read_data_file(path: str, options: Namespace) -> DataFile:
    """The file as the options of ``add_row_options`` say.

    Raises:
        ValueError: ``--columns`` or ``--image-hosts`` cannot be used
    """
    columns = tuple(read_columns(options.columns).items())
    return DataFile(path, columns, options.task, options.image_root, read_hosts(options.image_hosts))


def read_hosts(words: Sequence[str]) -> tuple[str, ...]:
    """The hosts that image URLs may name.

    Raises:
        ValueError: a word is no host
    """
    return tuple(DataConfig(image_hosts=list(words)).image_hosts)


def add_model_options(parser: ArgumentParser) -> None:
    """Which model reads the rows; its weights are not."""
    parser.add_argument("--model", metavar="PATH", help="model folder, run or hub name: counts the tokens of every row")
    parser.add_argument("--min-pixels", type=count, help="model.min_pixels of the recipe")
    parser.add_argument("--max-pixels", type=count, help="model.max_pixels of the recipe")


def read_model(options: Namespace) -> ModelConfig | None:
    """The model of ``add_model_options``; None where none is named.

    Raises:
        ValueError: pixels without a model, or limits that contradict each other
    """
    pixels = {name: getattr(options, name) for name in ("min_pixels", "max_pixels")}
    given = {name: value for name, value in pixels.items() if value is not None}
    if options.model is None and given:
        raise ValueError("--min-pixels and --max-pixels go with a --model")
    return None if options.model is None else ModelConfig(path=options.model, **given)


def read_columns(words: Sequence[str]) -> dict[str, str]:
    """Kit field to column, of words such as ``question=problem``.

    Raises:
        ValueError: a word is not of that form, or names no field
    """
    columns = dict(word.partition("=")[::2] for word in words)
    for field, column in columns.items():
        if field not in KIT_FIELDS or not column:
            raise ValueError(f"--columns {field}={column}: write FIELD=COLUMN, FIELD one of {', '.join(KIT_FIELDS)}")
    return columns


def count(text: str) -> int:
    """A whole number above 0, as the ``type`` of an option."""
    if not text.isdecimal() or int(text) == 0:
        raise ValueError
    return int(text)


def run_command(command: Callable[[], int]) -> int:
    """Runs a command; returns its exit code. A mistake (2), SIGINT (130) and SIGTERM (143) are each told in a line."""
    try:
        with INTERRUPTS.raising():
            return command()
    except (ValueError, OSError) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2
    except Interrupted as error:
        print("interrupted, and nothing half-written; run the same command again", file=sys.stderr)
        return error.exit_code


def run_converter(parser: ArgumentParser, plan: Plan, argv: Sequence[str] | None) -> int:
    """Runs the command of a converter; returns the exit code."""

    def command() -> int:
        options = parser.parse_args(argv)
        rows, make_samples = plan(options)
        hosts = read_hosts(options.image_hosts)
        counts = convert(options.source, rows, make_samples, options.out, options.limit, hosts)
        print("\n".join(map(printable, [f"{options.out}: {counts.total()}", *counts.reasons()])))
        return 0

    return run_command(command)


def printable(text: str) -> str:
    """One line without control characters: rows come from anywhere, and a terminal obeys some."""
    return "".join(char if char.isprintable() else " " for char in text)
