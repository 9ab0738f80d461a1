"""COCO's or LVIS' evaluation pictures, asked about the categories of a published list -> rows of the task detection.

    python -m data_tools.coco --source instances_val2017.json --images val2017 \\
        --pairs exist_map_coco_Qwen2_vl_2B_baseline.json --out data/detection/coco.parquet

As published: the annotations of COCO val2017 or LVIS v1 val (instances), and Visual-RFT's ``exist_map_*.json``, which
lists for each picture the categories to ask for (those that its baseline sees there). Each pair makes a row.
``--categories`` keeps those of an experiment. A row's gold boxes are the annotations without crowds and without boxes
of zero area; the published AP is computed from the annotations themselves (``eval.detection --coco FILE``).
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ijson

from data_tools.command_line import make_parser, run_converter
from data_tools.conversion import DropRow, MakeSamples
from data_tools.image_files import ImageFiles
from data_tools.published import EDGE_TOLERANCE, cut_at_edges, read_numbers
from data_tools.sources import SourceRow
from gpg_vl.data.images import read_size
from gpg_vl.records import Box, Sample
from gpg_vl.verifiers.box_text import NO_OBJECTS
from gpg_vl.verifiers.boxes import clip_box, is_inside, is_ordered

_Boxes = Mapping[tuple[str, str], Sequence[Box]]
"""Boxes by the ids of picture and category, as text."""


def read_objects(file: Path, name: str) -> Iterator[dict[str, Any]]:
    """The objects of one list of an annotation file, such as ``images``; the whole file is never in memory.

    Raises:
        ValueError: the file does not exist, is not JSON, or has no such list
    """
    if not file.is_file():
        raise ValueError(f"no such file: {file}")
    is_empty = True
    with file.open("rb") as stream:
        try:
            for value in ijson.items(stream, f"{name}.item", use_float=True):
                if not isinstance(value, dict):
                    raise ValueError(f"{file}: an entry of {name!r} is a {type(value).__name__}, not an object")
                is_empty = False
                yield value
        except (ijson.JSONError, UnicodeDecodeError) as error:
            raise ValueError(f"{file}: not JSON ({type(error).__name__})") from error
    if is_empty:
        raise ValueError(f"{file} has no list {name!r}; give an instances file of COCO or LVIS")


def read_pairs(file: Path) -> dict[str, list[str]]:
    """The categories to ask for, by the id of the picture.

    Raises:
        ValueError: the file is not an object of lists
    """
    try:
        pairs = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"--pairs {file}: cannot be read as JSON ({type(error).__name__})") from error
    if not isinstance(pairs, dict) or not all(map(_is_texts, pairs.values())):
        raise ValueError(f"--pairs {file}: not an object of lists, {{picture: [category, ...]}}")
    return pairs


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def read_boxes(file: Path, wanted: Collection[str]) -> _Boxes:
    """The boxes of these categories, without crowds and without boxes of zero area.

    Raises:
        ValueError: a box is not four numbers; names the annotation
    """
    boxes = defaultdict(list)
    for number, each in enumerate(read_objects(file, "annotations"), start=1):
        image, category = (str(each.get(name)) for name in ("image_id", "category_id"))
        if category in wanted and not each.get("iscrowd", 0):
            x, y, width, height = read_numbers(each.get("bbox"), 4, f"{file}, annotation {number}: bbox")
            if width > 0 and height > 0:
                boxes[image, category].append((x, y, x + width, y + height))
    return boxes


def read_rows(file: Path, pairs: Mapping[str, Sequence[str]], numbers: Mapping[str, Any]) -> Iterator[SourceRow]:
    """A row for each requested picture and category, in the order of the annotation file's pictures."""
    number = 0
    for image in read_objects(file, "images"):
        for category in pairs.get(str(image.get("id")), ()):
            if category in numbers:
                number += 1
                place = f"{file.name}, picture {image['id']}, {category}"
                yield SourceRow(number, place, {**image, "category": category, "category_id": numbers[category]})


def make_sample(row: SourceRow, images: ImageFiles, boxes: _Boxes, name: str) -> Iterator[Sample]:
    values = row.values
    image = images.find(_file_name(values))
    size = read_size(image)
    published = (values.get("width"), values.get("height"))
    if size != published:
        raise DropRow("the picture is of another size", f"{size}, not {published}")
    key = (values["id"], values["category_id"])
    cut = _cut_boxes(boxes.get((str(key[0]), str(key[1])), ()), size)
    entries = [{"Position": [round(edge, 4) for edge in box], "Confidence": 1} for box in cut]
    question = f"Detect all objects of the category '{values['category']}' in the image."
    meta = {"category": values["category"], "category_id": key[1], "image_id": key[0]}
    answer = str(entries) if entries else NO_OBJECTS
    yield Sample(f"{name}-{key[0]}-{key[1]}", "detection", (image,), question, answer, meta)


def _cut_boxes(boxes: Iterable[Box], size: tuple[int, int]) -> list[Box]:
    """The parts of boxes inside the image; slivers at its edge that have no area there are dropped.

    Raises:
        DropRow: a box is outside the image
    """
    with_area = (box for box in boxes if is_ordered(clip_box(box, *size)) or not is_inside(box, *size, EDGE_TOLERANCE))
    return [cut_at_edges(box, size) for box in with_area]


def _file_name(image: Mapping[str, Any]) -> str:
    """COCO gives the file's name; LVIS, whose pictures come from two COCO folders, gives the end of a URL."""
    return str(image.get("file_name") or "/".join(str(image.get("coco_url")).split("/")[-2:]))


def plan(options: Namespace) -> tuple[Iterable[SourceRow], MakeSamples]:
    source, images = Path(options.source), ImageFiles(options.images)
    numbers = {str(each.get("name")): each.get("id") for each in read_objects(source, "categories")}
    pairs = read_pairs(Path(options.pairs))
    asked = {name for names in pairs.values() for name in names}
    wanted = set(options.categories or asked)
    for unknown in sorted((wanted | asked) - set(numbers)):
        raise ValueError(f"{source.name} has no category {unknown[:80]!r}, which --pairs or --categories asks for")
    chosen = {name: numbers[name] for name in wanted}
    boxes = read_boxes(source, set(map(str, chosen.values())))
    return read_rows(source, pairs, chosen), lambda row: make_sample(row, images, boxes, source.stem)


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("coco", str(__doc__))
    parser.add_argument("--images", required=True, help="folder or ZIP of val2017; for LVIS its parent folder")
    parser.add_argument("--pairs", required=True, help="the published exist_map_*.json: which categories to ask for")
    parser.add_argument(
        "--categories", nargs="+", metavar="NAME", help="only these categories; default: all in --pairs"
    )
    return run_converter(parser, plan, argv)


if __name__ == "__main__":
    sys.exit(main())
