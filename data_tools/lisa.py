"""ReasonSeg, the data of LISA (a folder of NAME.jpg with NAME.json) -> rows of the task grounding.

    python -m data_tools.lisa --source ReasonSeg/train --box published --out data/lisa/train.parquet
    python -m data_tools.lisa --source ReasonSeg/test --box published --instructions first --out data/lisa/test.parquet

Each instruction of a picture makes a row. ``published`` is the box around the first polygon, whatever its label, as in
Visual-RFT; ``union`` is the box around all polygons labelled target, which is what the instruction asks for. The
polygons inside the box are kept in ``meta.polygons``, for masks.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_tools.command_line import make_parser, run_converter
from data_tools.conversion import DropRow, MakeSamples
from data_tools.published import cut_at_edges, read_numbers, write_pixels
from data_tools.sources import SourceRow, parse_object
from gpg_vl.data.images import find_image, read_size
from gpg_vl.records import Box, Sample

MIN_POINTS = 3  # fewer enclose nothing
Polygon = list[list[float]]  # of [x, y] in pixels


def read_folder(source: str) -> Iterator[SourceRow]:
    """The annotation files of a folder in order of their names, unread.

    Raises:
        ValueError: the folder has none
    """
    files = sorted(path for path in Path(source).glob("*.json") if path.is_file())
    if not files:
        raise ValueError(f"{source} has no *.json files; give the folder of one split, such as ReasonSeg/train")
    return (SourceRow(number, file.name, {"file": file}) for number, file in enumerate(files, start=1))


def make_samples(row: SourceRow, box: str, only_first: bool) -> Iterator[Sample]:
    file: Path = row.values["file"]
    image = find_image(f"{file.stem}.jpg", file.parent.resolve())
    if not Path(image).is_file():
        raise DropRow("the picture is missing", f"{file.stem}.jpg")
    annotation = parse_object(file.read_bytes(), file.name)
    shapes, instructions = annotation.get("shapes"), annotation.get("text")
    if not isinstance(shapes, list) or not all(isinstance(shape, dict) for shape in shapes):
        raise ValueError("shapes is not a list of polygons")
    if not isinstance(instructions, list) or not all(isinstance(text, str) for text in instructions):
        raise ValueError("text is not a list of instructions")
    polygons = first_polygon(shapes) if box == "published" else target_polygons(shapes)
    answer = write_pixels([cut_at_edges(box_around(polygons), read_size(image))])
    for number, instruction in enumerate(instructions[:1] if only_first else instructions):
        meta = {"is_sentence": bool(annotation.get("is_sentence")), "polygons": polygons}
        name = f"lisa-{file.parent.name}-{file.stem}-{number}"
        yield Sample(name, "grounding", (image,), instruction.strip(), answer, meta)


def first_polygon(shapes: Sequence[Mapping[str, Any]]) -> list[Polygon]:
    """Only the first polygon, whatever its label."""
    if not shapes:
        raise DropRow("no polygon")
    polygon = _points(shapes[0])
    if len(polygon) < MIN_POINTS:
        raise DropRow("a polygon of fewer than three points", json.dumps(polygon))
    return [polygon]


def target_polygons(shapes: Sequence[Mapping[str, Any]]) -> list[Polygon]:
    """All polygons labelled target; those with fewer than three points are skipped."""
    targets = [_points(shape) for shape in shapes if shape.get("label") == "target"]
    polygons = [polygon for polygon in targets if len(polygon) >= MIN_POINTS]
    if not polygons:
        raise DropRow("no polygon of the label target")
    return polygons


def box_around(polygons: Sequence[Polygon]) -> Box:
    """The smallest box that contains every point."""
    xs, ys = zip(*(point for polygon in polygons for point in polygon), strict=True)
    return (min(xs), min(ys), max(xs), max(ys))


def _points(shape: Mapping[str, Any]) -> Polygon:
    points = shape.get("points")
    if not isinstance(points, list):
        raise ValueError("a polygon's points are not a list of [x, y]")
    return [list(read_numbers(point, 2, "a polygon's point")) for point in points]


def plan(options: Namespace) -> tuple[Iterable[SourceRow], MakeSamples]:
    only_first = options.instructions == "first"
    return read_folder(options.source), lambda row: make_samples(row, options.box, only_first)


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("lisa", str(__doc__))
    parser.add_argument("--box", required=True, choices=["published", "union"], help="which box is the gold answer")
    choices = ["all", "first"]
    parser.add_argument(
        "--instructions", default="all", choices=choices, help="first: only the first, as in the published evaluation"
    )
    return run_converter(parser, plan, argv)


if __name__ == "__main__":
    sys.exit(main())
