"""The detection sets of Visual-RFT -> rows of the task detection.

    python -m data_tools.virft_det --source laolao77/ViRFT_COCO_base65 --out data/coco_base65/train.parquet

As published: Parquet with image, problem and solution, a solution being ``<answer>[{'Position': [x1, y1, x2, y2],
'Confidence': 1}, ...]</answer>`` on a 0-1000 grid, or ``No Objects``. The kit's rows have boxes in original pixels, and
their question names only the category: the task asks for frame and format. The other sets are
laolao77/ViRFT_COCO, laolao77/ViRFT_COCO_8_cate_4_shot and laolao77/ViRFT_LVIS_few_shot.
"""

from __future__ import annotations

import re
import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence

from data_tools.command_line import make_parser, run_converter
from data_tools.conversion import DropRow, MakeSamples
from data_tools.published import EDGE_TOLERANCE, cut_at_edges, read_image, read_solution, read_string
from data_tools.sources import SourceRow, read_parquet
from gpg_vl.data.images import read_size
from gpg_vl.records import Box, ImageView, Sample
from gpg_vl.verifiers.box_text import NO_OBJECTS, parse_detections

_CATEGORY = re.compile(r"category\s+(['\"])(.+?)\1(?=\s|[.,;])")


def make_sample(row: SourceRow) -> Iterator[Sample]:
    values = row.values
    image, problem, solution = read_image(values["image"]), read_string(values, "problem"), read_solution(values)
    category = _CATEGORY.search(problem)
    if category is None:
        raise DropRow("the problem names no category", problem[:80])
    found = parse_detections(solution)
    if found is None:
        raise ValueError(f"solution {solution[:60]!r} is not a list of positions")
    boxes = to_pixels([detection.box for detection in found], read_size(image))
    answer = str([{"Position": box, "Confidence": 1} for box in boxes]) if boxes else NO_OBJECTS
    question = f"Detect all objects of the category '{category[2]}' in the image."
    meta = {"category": category[2]}
    yield Sample(f"virft-det-{row.number}", "detection", (image,), question, answer, meta)


def to_pixels(boxes: Sequence[Box], size: tuple[int, int]) -> list[list[float]]:
    """Converts boxes from the 0-1000 grid to pixels of an image of ``size``."""
    view = ImageView(*size, *size, "grid_1000")
    return [[round(edge, 4) for edge in cut_at_edges(view.to_original(box), size, EDGE_TOLERANCE)] for box in boxes]


def plan(options: Namespace) -> tuple[Iterable[SourceRow], MakeSamples]:
    return read_parquet(options.source, ["image", "problem", "solution"]), make_sample


def main(argv: Sequence[str] | None = None) -> int:
    return run_converter(make_parser("virft_det", str(__doc__), "laolao77/ViRFT_COCO_base65"), plan, argv)


if __name__ == "__main__":
    sys.exit(main())
