"""RefCOCO, RefCOCO+ or RefCOCOg as VLM-R1 publishes them -> rows of the task grounding.

    python -m data_tools.refcoco --source rec_jsons_processed/refcoco_train.json --images train2014 \\
        --out data/refcoco/train.parquet

The source is a JSON list of objects with image, problem (the expression) and solution (a box in original pixels); the
pictures are COCO's train2014, as a folder or a ZIP.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from data_tools.command_line import make_parser, run_converter
from data_tools.conversion import MakeSamples
from data_tools.image_files import ImageFiles
from data_tools.published import EDGE_TOLERANCE, cut_at_edges, read_numbers, read_string, write_pixels
from data_tools.sources import SourceRow, read_json_list
from gpg_vl.data.images import read_size
from gpg_vl.records import Sample


def make_sample(row: SourceRow, images: ImageFiles, name: str) -> Iterator[Sample]:
    x1, y1, x2, y2 = read_numbers(row.values.get("solution"), 4, "solution")
    image = images.find(read_string(row.values, "image"))
    answer = write_pixels([cut_at_edges((x1, y1, x2, y2), read_size(image), EDGE_TOLERANCE)])
    question = f"Find what this describes: {read_string(row.values, 'problem')}"
    yield Sample(f"{name}-{row.number}", "grounding", (image,), question, answer)


def plan(options: Namespace) -> tuple[Iterable[SourceRow], MakeSamples]:
    images, name = ImageFiles(options.images), Path(options.source).stem
    return read_json_list(options.source), lambda row: make_sample(row, images, name)


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("refcoco", str(__doc__))
    parser.add_argument("--images", required=True, help="folder or ZIP of COCO's train2014")
    return run_converter(parser, plan, argv)


if __name__ == "__main__":
    sys.exit(main())
