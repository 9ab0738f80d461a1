"""The format of R1-V's published data sets, for the converters ``geoqa`` and ``clevr``.

Training: Parquet with image, problem and solution. Test: JSON lines with image_path, question and ground_truth, and the
images in a folder or ZIP archive.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from data_tools.command_line import make_parser, run_converter
from data_tools.conversion import MakeSamples
from data_tools.image_files import ImageFiles
from data_tools.published import read_image, read_solution, read_string
from data_tools.sources import SourceRow, read_json_lines, read_parquet
from gpg_vl.records import Sample


@dataclass(frozen=True)
class R1VSet:
    """One of the data sets: ``R1VSet("geoqa", "geometry", "leonardPKU/GEOQA_R1V_Train_8K", __doc__)``."""

    name: str  # of the converter; ids begin with it
    task: str
    hub: str  # hub name of the training rows
    description: str

    def run(self, argv: Sequence[str] | None) -> int:
        parser = make_parser(self.name, self.description, self.hub)
        parser.add_argument("--images", help="folder or ZIP of the test images")
        return run_converter(parser, self.plan, argv)

    def plan(self, options: Namespace) -> tuple[Iterable[SourceRow], MakeSamples]:
        if not options.source.endswith(".jsonl"):
            return read_parquet(options.source, ["image", "problem", "solution"]), self.make_train_sample
        if options.images is None:
            raise ValueError("the test questions need their images; add --images FOLDER or --images FILE.zip")
        images = ImageFiles(options.images)
        return read_json_lines(options.source), lambda row: self.make_test_sample(row, images)

    def make_train_sample(self, row: SourceRow) -> Iterator[Sample]:
        values = row.values
        image, question, answer = read_image(values["image"]), read_string(values, "problem"), read_solution(values)
        yield Sample(f"{self.name}-train-{row.number}", self.task, (image,), question, answer)

    def make_test_sample(self, row: SourceRow, images: ImageFiles) -> Iterator[Sample]:
        image = images.find(read_string(row.values, "image_path"))
        gold = row.values.get("ground_truth")
        values = {**row.values, "ground_truth": str(gold)} if type(gold) in (int, float) else row.values
        question, answer = read_string(values, "question"), read_string(values, "ground_truth")
        yield Sample(f"{self.name}-test-{row.number}", self.task, (image,), question, answer)
