"""ReasonSeg, the data of LISA (a folder of NAME.jpg with NAME.json) -> rows of the task grounding.

    python -m data_tools.lisa --source ReasonSeg/train --box published --out data/lisa/train.parquet
    python -m data_tools.lisa --source ReasonSeg/test --box published --instructions first --out data/lisa/test.parquet

Each instruction of a picture makes a row. ``published`` is the box around the first polygon, whatever its label, as in
Visual-RFT; ``union`` is the box around all polygons labelled target, which is what the instruction asks for.
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
from data_tools.published import cut_at_edges, write_pixels
from data_tools.sources import SourceRow, parse_object
from gpg_vl.images import read_size
from gpg_vl.records import Box, Sample

MIN_POINTS = 3  # fewer enclose nothing
Point = tuple[float, float]


def read_folder(source: str) -> Iterator[SourceRow]:
    """The annotation files of a folder in the order of their names, unread.

    Raises:
        ValueError: there are none
    """
    files = sorted(Path(source).glob("*.json"))
    if not files:
        raise ValueError(f"{source} holds no file *.json; give the folder of one split, such as ReasonSeg/train")
    return (SourceRow(number, file.name, {"file": file}) for number, file in enumerate(files, start=1))


def make_samples(row: SourceRow, box: str, only_first: bool) -> Iterator[Sample]:
    file: Path = row.values["file"]
    image = file.with_suffix(".jpg")
    if not image.is_file():
        raise DropRow("the picture is missing", image.name)
    annotation = parse_object(file.read_bytes(), file.name)
    shapes, instructions = annotation.get("shapes"), annotation.get("text")
    if not isinstance(shapes, list) or not isinstance(instructions, list):
        raise ValueError("shapes or text is no list")
    corners = published_box(shapes) if box == "published" else union_box(shapes)
    answer = write_pixels([cut_at_edges(corners, read_size(str(image)))])
    for number, instruction in enumerate(instructions[:1] if only_first else instructions):
        meta = {"is_sentence": bool(annotation.get("is_sentence"))}
        name = f"lisa-{file.parent.name}-{file.stem}-{number}"
        yield Sample(name, "grounding", (str(image),), str(instruction).strip(), answer, meta)


def published_box(shapes: Sequence[Mapping[str, Any]]) -> Box:
    """The box around the first polygon, whatever its label."""
    if not shapes:
        raise DropRow("no polygon")
    return _box_around(_read_polygon(shapes[0]))


def union_box(shapes: Sequence[Mapping[str, Any]]) -> Box:
    """The box around all polygons of the label target; ones of fewer than three points are passed over."""
    polygons = [_points(shape) for shape in shapes if shape.get("label") == "target"]
    points = [point for polygon in polygons if len(polygon) >= MIN_POINTS for point in polygon]
    if not points:
        raise DropRow("no polygon of the label target")
    return _box_around(points)


def _read_polygon(shape: Mapping[str, Any]) -> list[Point]:
    points = _points(shape)
    if len(points) < MIN_POINTS:
        raise DropRow("a polygon of fewer than three points", json.dumps(points))
    return points


def _points(shape: Mapping[str, Any]) -> list[Point]:
    try:
        return [(float(x), float(y)) for x, y in shape["points"]]
    except (KeyError, TypeError) as error:
        raise ValueError("a polygon's points are no list of [x, y]") from error


def _box_around(points: Sequence[Point]) -> Box:
    xs, ys = zip(*points, strict=True)
    return (min(xs), min(ys), max(xs), max(ys))


def plan(options: Namespace) -> tuple[Iterable[SourceRow], MakeSamples]:
    only_first = options.instructions == "first"
    return read_folder(options.source), lambda row: make_samples(row, options.box, only_first)


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("lisa", str(__doc__))
    parser.add_argument("--box", required=True, choices=["published", "union"], help="which box is the gold answer")
    choices = ["all", "first"]
    parser.add_argument("--instructions", default="all", choices=choices, help="first: as the published evaluation")
    return run_converter(parser, plan, argv)


if __name__ == "__main__":
    sys.exit(main())
