"""SAT (array/SAT), Parquet as published -> rows of the task choice.

    python -m data_tools.sat --source array/SAT --split train --limit 15000 --out data/sat/train.parquet

The published preparation takes the first 15,000 rows and drops those with two images: ``--limit 15000`` and the default
``--max-images 1`` do the same. Options are read as a list and shuffled with a seed per row; the gold answer is the text
of an option, as published.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from random import Random

from data_tools.command_line import count, make_parser, run_converter
from data_tools.conversion import DropRow, MakeSamples
from data_tools.published import read_image, read_list, read_string
from data_tools.sources import SourceRow, read_parquet
from gpg_vl.records import Sample

COLUMNS = ("image_bytes", "question", "answers", "question_type", "correct_answer")
SPLITS = ("train", "static", "val", "test")


def make_samples(row: SourceRow, split: str, seed: int, max_images: int) -> Iterator[Sample]:
    values = row.values
    found = values["image_bytes"] or []
    if not isinstance(found, list):
        raise ValueError(f"image_bytes is a {type(found).__name__}, not a list of images")
    images = tuple(map(read_image, found))
    if not images:
        raise DropRow("no image")
    if len(images) > max_images:
        raise DropRow(f"more than {max_images} image{'s' * (max_images > 1)}")
    options, answer = read_list(values, "answers"), read_string(values, "correct_answer")
    Random(f"{seed} {row.number}").shuffle(options)
    question = f"{read_string(values, 'question')} Choose one of: {write_options(options)}."
    meta = {"options": options, "question_type": values["question_type"]}
    yield Sample(f"sat-{split}-{row.number}", "choice", images, question, answer, meta)


def write_options(options: Sequence[str]) -> str:
    """``left, right or both``; with semicolons if an option contains a comma.

    >>> write_options(["left", "right", "both"]), write_options(["left, near", "right"])
    ('left, right or both', 'left, near; or right')
    """
    has_commas = any("," in option for option in options)
    if has_commas:
        return "; ".join([*options[:-1], f"or {options[-1]}"])
    return " or ".join([", ".join(options[:-1]), options[-1]] if len(options) > 1 else options)


def plan(options: Namespace) -> tuple[Iterable[SourceRow], MakeSamples]:
    rows = read_parquet(options.source, COLUMNS, f"SAT_{options.split}.parquet")
    return rows, lambda row: make_samples(row, options.split, options.seed, options.max_images)


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("sat", str(__doc__), "array/SAT")
    parser.add_argument("--split", default="train", choices=SPLITS, help="the file SAT_SPLIT.parquet of the data set")
    parser.add_argument(
        "--max-images", default=1, type=count, help="rows with more images are dropped (1, as published)"
    )
    parser.add_argument("--seed", default=0, type=int, help="decides the order of the options")
    return run_converter(parser, plan, argv)


if __name__ == "__main__":
    sys.exit(main())
