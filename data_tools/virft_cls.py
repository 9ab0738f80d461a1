"""The four 4-shot sets of Visual-RFT, or their test labels -> rows of the task classification.

    python -m data_tools.virft_cls --set flowers --out data/flowers/train.parquet
    python -m data_tools.virft_cls --set flowers --source oxford_flowers.pth --classes oxford_flowers.txt \\
        --images oxford_flowers/jpg --out data/flowers/test.parquet

Training: Parquet with image and solution, from the hub if --source is left out. Test: the published .pth labels, class
names in label order, one per line, and the pictures. The published ``problem`` is constant and ends in a request for a
format; it is replaced by one question for both training and test.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from operator import index
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from data_tools.command_line import make_parser, run_converter
from data_tools.conversion import MakeSamples
from data_tools.image_files import ImageFiles
from data_tools.published import read_image, read_solution
from data_tools.sources import SourceRow, decode_text, read_parquet
from gpg_vl.records import Sample


class FewShotSet(NamedTuple):
    hub: str
    question: str


SETS = {
    "flowers": FewShotSet("laolao77/ViRFT_CLS_flower_4_shot", "What species is the plant in the image?"),
    "pets": FewShotSet("laolao77/ViRFT_CLS_pets37_4shot", "What breed is the pet in the image?"),
    "aircraft": FewShotSet("laolao77/ViRFT_CLS_fgvc_aircraft_4_shot", "What model is the aircraft in the image?"),
    "cars": FewShotSet(
        "laolao77/ViRFT_CLS_car196_4shot", "What model is the car in the image? Name year, make, model and type."
    ),
}


def make_train_sample(row: SourceRow, name: str) -> Iterator[Sample]:
    image, answer = read_image(row.values["image"]), read_solution(row.values)
    yield Sample(f"{name}-train-{row.number}", "classification", (image,), SETS[name].question, answer)


def make_test_sample(row: SourceRow, name: str, images: ImageFiles) -> Iterator[Sample]:
    image = images.find(row.values["image"])
    yield Sample(f"{name}-test-{row.number}", "classification", (image,), SETS[name].question, row.values["class"])


def read_labels(source: str, classes: Sequence[str]) -> Iterator[SourceRow]:
    """The file names of the published labels with the names of their classes.

    Raises:
        ValueError: it is not a list of {path: {label}}, or a label has no name
    """
    import torch

    try:
        entries = torch.load(source, map_location="cpu", weights_only=True)
        labels = [(PurePosixPath(path).name, index(entry["label"])) for item in entries for path, entry in item.items()]
    except Exception as error:  # what torch raises on other files has no common class
        raise ValueError(f"{source} is not a list of {{path: {{label: ...}}}} saved by torch") from error
    for number, (name, label) in enumerate(labels, start=1):
        if not 0 <= label < len(classes):
            raise ValueError(f"{source}, entry {number}: label {label}, but --classes has {len(classes)} names")
        values = {"image": name, "class": classes[label]}
        yield SourceRow(number, f"{Path(source).name}, entry {number}", values)


def plan(options: Namespace) -> tuple[Iterable[SourceRow], MakeSamples]:
    options.source = options.source or SETS[options.set].hub
    if not options.source.endswith(".pth"):
        rows = read_parquet(options.source, ["image", "solution"])
        return rows, lambda row: make_train_sample(row, options.set)
    if options.images is None or options.classes is None:
        raise ValueError("the test labels need --images FOLDER and --classes FILE")
    names = [line.strip() for line in decode_text(Path(options.classes).read_bytes()).splitlines() if line.strip()]
    images = ImageFiles(options.images)
    return read_labels(options.source, names), lambda row: make_test_sample(row, options.set, images)


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("virft_cls", str(__doc__), "laolao77/ViRFT_CLS_...")
    parser.set_defaults(source=None)
    parser.add_argument("--set", required=True, choices=list(SETS), help="which of the sets")
    parser.add_argument("--images", help="folder or ZIP of the test pictures")
    parser.add_argument("--classes", metavar="FILE", help="class names in label order, one per line")
    return run_converter(parser, plan, argv)


if __name__ == "__main__":
    sys.exit(main())
