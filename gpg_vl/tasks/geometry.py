"""The value a figure asks for: an angle, a length, an area, exact, with or without its unit; or a choice's letter."""

from __future__ import annotations

from collections.abc import Sequence

from gpg_vl.records import ImageView, Sample
from gpg_vl.tasks.base import FORMAT_REQUEST, Task
from gpg_vl.verifiers.numbers import Quantity, normalise_quantity


class Geometry(Task):
    name = "geometry"

    def ask(self, sample: Sample, views: Sequence[ImageView]) -> str:
        return f"{sample.question}\n{FORMAT_REQUEST} The final answer is an exact number, or the letter of a choice."

    def read(self, answer: str, sample: Sample, views: Sequence[ImageView]) -> Quantity | str | None:
        return normalise_quantity(answer)

    def score(self, answer: Quantity | str, sample: Sample, views: Sequence[ImageView]) -> dict[str, float]:
        return {"correct": float(answer == normalise_quantity(sample.answer))}

    def check(self, sample: Sample) -> None:
        if normalise_quantity(sample.answer) is None:
            raise ValueError(f"the answer {sample.answer[:40]!r} is no value; write one such as 145°, 8√3 or 3/2")
