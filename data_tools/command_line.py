"""Shared command-line options: of converters (``--source``, ``--out``, ``--limit``), of rows, and of a model."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import get_args

from data_tools.conversion import MakeSamples, convert
from data_tools.row_checks import DataFile
from data_tools.sources import SourceRow
from gpg_vl.config import DataConfig, ModelConfig
from gpg_vl.data.schema import KIT_FIELDS
from gpg_vl.data.videos import FrameSampling
from gpg_vl.errors import describe_error_of_files, is_disk_error
from gpg_vl.files import lies_in, same_place
from gpg_vl.processes.command_line import OneLineParser
from gpg_vl.processes.interrupts import INTERRUPTS, Interrupted
from gpg_vl.processes.text_encoding import use_utf8
from gpg_vl.records import Frame
from gpg_vl.screen import printable, say, tell

Plan = Callable[[Namespace], tuple[Iterable[SourceRow], MakeSamples]]
"""Maps the options to the rows of the source and the function that converts each."""
_MODEL_LIMITS = ("min_pixels", "max_pixels", "max_tiles", "max_video_pixels")
_MODEL_WORDS = {"frame": get_args(Frame), "family": ("auto", "generic")}


def make_parser(name: str, description: str, hub: str | None = None) -> ArgumentParser:
    """A parser with the shared options; with ``hub``, the published name, ``--source`` is optional."""
    parser = OneLineParser(
        prog=f"python -m data_tools.{name}", description=description, formatter_class=RawDescriptionHelpFormatter
    )
    where = "file or folder of the published data" + ("" if hub is None else f", or its name on the hub ({hub})")
    parser.add_argument("--source", required=hub is None, default=hub, help=where)
    parser.add_argument(
        "--out", required=True, metavar="FILE", help="FILE.parquet or FILE.jsonl; an existing file is replaced"
    )
    parser.add_argument("--limit", type=count, help="read only the first N rows of the source, including dropped ones")
    # published rows have no URLs and no large images; the user's own rows may (add_row_options)
    parser.set_defaults(image_hosts=[], on_large_image="fail", fps=None, max_frames=None)
    return parser


def add_row_options(parser: ArgumentParser) -> None:
    """Options for reading the rows of a data file, like ``data`` and ``task`` of a recipe."""
    parser.add_argument("--task", help="task of every row; default: each row's own")
    parser.add_argument(
        "--allow-task", nargs="+", default=[], metavar="FILE.py:CLASS", help="tasks in files that rows may name"
    )
    parser.add_argument(
        "--columns", nargs="+", default=[], metavar="FIELD=COLUMN", help="which column of the file holds a field"
    )
    parser.add_argument(
        "--image-root", metavar="DIR", help="folder that image paths are relative to; default: the data file's own"
    )
    parser.add_argument(
        "--image-hosts", nargs="+", default=[], metavar="HOST", help="hosts that images may be fetched from"
    )
    parser.add_argument(
        "--on-large-image", choices=["fail", "shrink"], default="fail", help="data.on_large_image of the recipe"
    )
    parser.add_argument("--fps", type=float, help="data.fps of the recipe: frames in a second of a video")
    parser.add_argument("--max-frames", type=count, help="data.max_frames of the recipe: most frames of a video")


def read_data_file(path: str, options: Namespace) -> DataFile:
    """The file with the options of ``add_row_options``.

    Raises:
        ValueError: ``--columns``, ``--image-hosts`` or ``--fps`` is invalid
    """
    columns = tuple(read_columns(options.columns).items())
    hosts, own_tasks = read_hosts(options.image_hosts), tuple(options.allow_task)
    shrinks_large, sampling = options.on_large_image == "shrink", read_sampling(options)
    return DataFile(path, columns, options.task, options.image_root, hosts, own_tasks, shrinks_large, sampling)


def read_hosts(words: Sequence[str]) -> tuple[str, ...]:
    """The hosts that images may be fetched from.

    Raises:
        ValueError: a word is not a host name
    """
    return tuple(DataConfig(image_hosts=list(words)).image_hosts)


def read_sampling(options: Namespace) -> FrameSampling:
    """Which frames of a video are looked at: those that a run sees.

    Raises:
        ValueError: ``--fps`` is not above 0
    """
    given = {name: getattr(options, name) for name in ("fps", "max_frames") if getattr(options, name) is not None}
    data = DataConfig(**given)
    return FrameSampling(data.fps, data.max_frames)


def add_model_options(parser: ArgumentParser) -> None:
    """Options for the model that will read the rows; its weights are not loaded."""
    parser.add_argument(
        "--model", metavar="PATH", help="model folder, run or hub name; used to count the tokens of every row"
    )
    for name in _MODEL_LIMITS:
        parser.add_argument(f"--{name.replace('_', '-')}", type=count, help=f"model.{name} of the recipe")
    for name, words in _MODEL_WORDS.items():
        parser.add_argument(f"--{name}", choices=words, help=f"model.{name} of the recipe")


def read_model(options: Namespace) -> ModelConfig | None:
    """The model of ``add_model_options``, or None if none is given.

    Raises:
        ValueError: options of a model without one, or limits that contradict each other
    """
    named = (*_MODEL_LIMITS, *_MODEL_WORDS)
    given = {name: getattr(options, name) for name in named if getattr(options, name) is not None}
    if options.model is None and given:
        raise ValueError(
            "--min-pixels, --max-pixels, --max-tiles, --max-video-pixels, --frame and --family need --model"
        )
    return None if options.model is None else ModelConfig(path=options.model, **given)


def read_columns(words: Sequence[str]) -> dict[str, str | tuple[str, ...] | None]:
    """Maps kit fields to columns, from words such as ``question=problem`` and ``images=left,right``.

    Raises:
        ValueError: a word does not have that form, or names no field
    """
    columns = dict(word.partition("=")[::2] for word in words)
    for field, column in columns.items():
        if field not in KIT_FIELDS or not column:
            raise ValueError(f"--columns {field}={column}: write FIELD=COLUMN, FIELD one of {', '.join(KIT_FIELDS)}")
    return {field: _read_column(field, column) for field, column in columns.items()}


def _read_column(field: str, column: str) -> str | tuple[str, ...]:
    names = tuple(column.split(","))
    return names if field == "images" and len(names) > 1 else column


def count(text: str) -> int:
    """A whole number above 0; used as the ``type`` of an option."""
    if not text.isdecimal() or int(text) == 0:
        raise ValueError
    return int(text)


def run_command(command: Callable[[], int]) -> int:
    """Runs a command; returns its exit code. A mistake (2), a full disk (1), SIGINT (130) and SIGTERM (143) each print
    one line."""
    if sys.modules["__main__"].__package__ == __package__:  # python -m data_tools.NAME
        use_utf8()
    try:
        with INTERRUPTS.raising():
            return command()
    except (ValueError, OSError) as error:
        say(f"error: {printable(describe_error_of_files(error))}")
        return 1 if is_disk_error(error) else 2
    except Interrupted as error:
        say("interrupted; no incomplete file was left; run the same command again")
        return error.exit_code


def refuse_inputs(options: Namespace, *outputs: Path) -> None:
    """
    Raises:
        ValueError: one of the files to write is a file that another option names, or in the folder of the source
    """
    for option, value in vars(options).items():
        for word in value if isinstance(value, list) else [value]:
            if option == "out" or not isinstance(word, str) or not word or not Path(word).exists():
                continue
            for path in outputs:
                is_in = option in ("source", "data") and Path(word).is_dir() and lies_in(path, Path(word))
                if same_place(path, Path(word)) or is_in:
                    raise ValueError(f"--out: {path} would replace {word}, or be a part of it; give another name")


def run_converter(parser: ArgumentParser, plan: Plan, argv: Sequence[str] | None) -> int:
    """Runs a converter; returns the exit code."""

    def command() -> int:
        options = parser.parse_args(argv)
        refuse_inputs(options, Path(options.out), Path(options.out).with_suffix(".counts.json"))
        rows, make_samples = plan(options)
        hosts = read_hosts(options.image_hosts)
        shrinks_large, sampling = options.on_large_image == "shrink", read_sampling(options)
        counts = convert(options.source, rows, make_samples, options.out, options.limit, hosts, shrinks_large, sampling)
        tell("\n".join(map(printable, [f"{options.out}: {counts.total()}", *counts.reasons()])))
        return 0

    return run_command(command)
