"""Your own rows as JSON lines, a JSON list or Parquet with any columns -> rows of one of the kit's tasks.

    python -m data_tools.jsonl --source mine.jsonl --task counting --columns question=problem answer=solution \\
        images=image --image-root pictures --out data/mine/train.parquet

``--columns`` says which columns hold id, images, question, answer, task and meta. A column of the same name need not be
listed, rows without an id are numbered, and all other columns go into ``meta``. A row without a required field is
dropped and counted; boxes must be in original pixels. Images may be URLs of ``--image-hosts``: each is fetched once,
and its bytes are written.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from data_tools.command_line import add_row_options, make_parser, read_columns, read_hosts, run_converter
from data_tools.conversion import MakeSamples
from data_tools.sources import SourceRow, read_all_parquet, read_json_lines, read_json_list
from gpg_vl.data.rows import find_image_root, make_sample
from gpg_vl.data.schema import KIT_FIELDS
from gpg_vl.own_code import absolute_spec
from gpg_vl.records import Sample
from gpg_vl.tasks import load_task

_READERS = {".jsonl": read_json_lines, ".json": read_json_list, ".parquet": read_all_parquet}


def plan(options: Namespace) -> tuple[Iterable[SourceRow], MakeSamples]:
    suffix = Path(options.source).suffix
    if suffix not in _READERS:
        raise ValueError(f"--source {options.source}: the name must end in one of {', '.join(_READERS)}")
    if options.task is not None:
        load_task(options.task)
    columns = read_columns(options.columns)
    root = find_image_root(options.source, options.image_root)
    hosts = read_hosts(options.image_hosts)
    name = Path(options.source).stem
    own_tasks = frozenset(map(absolute_spec, options.allow_task))

    def make(row: SourceRow) -> Iterator[Sample]:
        for column in columns.values():
            if column not in row.values:
                raise ValueError(f"there is no column {column!r}; the row has {list(row.values)}")
        own = {field: field for field in KIT_FIELDS if field in row.values}
        own.setdefault("images", "image" if "image" in row.values else "images")
        default_id = f"{name}:{row.number}"
        yield make_sample(row.values, {**own, **columns}, root, options.task, default_id, hosts, own_tasks)

    return _READERS[suffix](options.source), make


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("jsonl", str(__doc__))
    add_row_options(parser)
    return run_converter(parser, plan, argv)


if __name__ == "__main__":
    sys.exit(main())
