"""CV-Bench (nyu-visionx/CV-Bench), the 2,638 test questions -> rows of the task choice.

    python -m data_tools.cvbench --source nyu-visionx/CV-Bench --out data/cvbench/test.parquet

The question is the published ``prompt``, which letters the choices; the gold answer is a letter such as (A). ``meta``
keeps the choices, the type, the source, and ``benchmark_task``: one of Count, Relation, Depth, Distance.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence

from data_tools.command_line import make_parser, run_converter
from data_tools.conversion import MakeSamples
from data_tools.published import read_image, read_list, read_string
from data_tools.sources import SourceRow, read_parquet
from gpg_vl.records import Sample

HUB = "nyu-visionx/CV-Bench"
COLUMNS = ("image", "prompt", "choices", "answer", "task", "type", "source")


def make_sample(row: SourceRow) -> Iterator[Sample]:
    values = row.values
    meta = {
        "choices": read_list(values, "choices"),
        "benchmark_task": read_string(values, "task"),
        "type": values["type"],
        "source": values["source"],
    }
    question, answer = read_string(values, "prompt"), read_string(values, "answer")
    yield Sample(f"cvbench-{row.number}", "choice", (read_image(values["image"]),), question, answer, meta)


def plan(options: Namespace) -> tuple[Iterable[SourceRow], MakeSamples]:
    return read_parquet(options.source, COLUMNS, "test*.parquet"), make_sample


def main(argv: Sequence[str] | None = None) -> int:
    return run_converter(make_parser("cvbench", str(__doc__), HUB), plan, argv)


if __name__ == "__main__":
    sys.exit(main())
