"""The value a figure asks for: an angle, a length, an area, exact, with or without its unit; or a choice's letter."""

from __future__ import annotations

from collections.abc import Sequence

from gpg_vl.records import ImageView, Sample
from gpg_vl.tasks.base import FORMAT_REQUEST, Task
from gpg_vl.tasks.legacy.numbers import GEOMETRY
from gpg_vl.verifiers.same_values import Value, same_value
from gpg_vl.verifiers.values import read_value


class Geometry(Task):
    name = "geometry"
    legacy = GEOMETRY

    def ask(self, sample: Sample, views: Sequence[ImageView]) -> str:
        return f"{sample.question}\n{FORMAT_REQUEST} The final answer is an exact number, or the letter of a choice."

    def read(self, answer: str, sample: Sample, views: Sequence[ImageView]) -> Value | None:
        return read_value(answer)

    def score(self, answer: Value, sample: Sample, views: Sequence[ImageView]) -> dict[str, float]:
        gold = read_value(sample.answer)
        return {"correct": float(gold is not None and same_value(answer, gold))}

    def check(self, sample: Sample) -> None:
        if read_value(sample.answer) is None:
            raise ValueError(f"the answer {sample.answer[:40]!r} is no value; write one such as 145°, 8√3 or 3/2")
