"""Your own rows in a file with any columns -> rows of one of the kit's tasks.

    python -m data_tools.jsonl --source mine.jsonl --task counting --columns question=problem answer=solution \\
        images=image --image-root pictures --out data/mine/train.parquet

The file is JSON lines, a JSON list, CSV, TSV, Parquet, or WebDataset shards, also packed (.gz, .zst). ``--columns``
says which columns hold id, images, question, answer, task and meta; ``a.b`` is a key in column a, and several columns
of images are separated by commas. A column of the same name need not be listed, and rows of TRL, verl, EasyR1, ms-swift
and LLaVA are known by theirs. Rows without an id are numbered, and all other columns go into ``meta``. A row without a
required field is dropped and counted; boxes must be in original pixels. Images may be URLs of ``--image-hosts``: each
is fetched once, and its bytes are written.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_tools.command_line import add_row_options, make_parser, read_columns, read_hosts, run_converter
from data_tools.conversion import MakeSamples
from data_tools.sources import SourceRow, read_all_parquet, read_json_lines, read_json_list
from gpg_vl.data.row_formats import find_shape
from gpg_vl.data.rows import GivenColumns, Matched, find_image_root, make_sample, match_columns
from gpg_vl.data.tables import Table, open_table
from gpg_vl.records import Sample
from gpg_vl.screen import tell
from gpg_vl.tasks import load_task
from gpg_vl.user_code import absolute_spec

_READERS = {".jsonl": read_json_lines, ".json": read_json_list, ".parquet": read_all_parquet}


def plan(options: Namespace) -> tuple[Iterable[SourceRow], MakeSamples]:
    if options.task is not None:
        load_task(options.task)
    columns = read_columns(options.columns)
    root = find_image_root(options.source, options.image_root)
    hosts = read_hosts(options.image_hosts)
    name = Path(options.source).stem
    own_tasks = frozenset(map(absolute_spec, options.allow_task))
    matcher = _Matcher(columns, options.task)

    def make(row: SourceRow) -> Iterator[Sample]:
        default_id = f"{name}:{row.number}"
        yield make_sample(row.values, matcher.match(row), root, options.task, default_id, hosts, own_tasks)

    return _READERS.get(Path(options.source).suffix, _read_table)(options.source), make


class _Matcher:
    """Finds the fields of each row by its own columns. The first row says what shape all of them have."""

    def __init__(self, columns: GivenColumns, task: str | None) -> None:
        self._columns = columns
        self._task = task
        self._first: list[str] | None = None

    def match(self, row: SourceRow) -> Matched:
        """Raises ``ValueError`` if the row lacks a column, or is in another shape than the first."""
        available = list(row.values)
        if self._first is None:
            self._first = available
            matched = self._match(available)
            if matched.reading:
                tell(f"{row.place.partition(',')[0]}: {matched.reading}")
            return matched
        if find_shape(available) != find_shape(self._first):
            raise ValueError(f"the row has the columns {available}, and the first row {self._first}; write them alike")
        return self._match(available)

    def _match(self, available: Sequence[str]) -> Matched:
        columns = dict(self._columns)
        if "id" in available and find_shape(available) is None:
            columns.setdefault("id", "id")
        return match_columns("the row", available, columns or None, self._task)


def _read_table(source: str) -> Iterator[SourceRow]:
    """The rows of a file that is opened as a whole.

    Raises:
        ValueError: there is no such file, or a row cannot be read; names it
    """
    if not Path(source).exists():
        raise ValueError(f"no such file: {source}")
    table = open_table(source, None)
    return (
        SourceRow(n + 1, f"{Path(source).name}, row {n + 1}", _read_row(table, source, n)) for n in range(len(table))
    )


def _read_row(table: Table, source: str, index: int) -> dict[str, Any]:
    try:
        return table.row(index)
    except ValueError as error:
        raise ValueError(f"{source}, row {index + 1}: {error}") from error


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("jsonl", str(__doc__))
    add_row_options(parser)
    return run_converter(parser, plan, argv)


if __name__ == "__main__":
    sys.exit(main())
