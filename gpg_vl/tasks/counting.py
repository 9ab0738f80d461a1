"""How many things a picture shows: a whole number, right or wrong."""

from __future__ import annotations

from collections.abc import Sequence

from gpg_vl.records import ImageView, Sample
from gpg_vl.tasks.base import FORMAT_REQUEST, Task
from gpg_vl.tasks.legacy.numbers import COUNTING
from gpg_vl.verifiers.counts import read_count, read_integer


class Counting(Task):
    name = "counting"
    legacy = COUNTING

    def ask(self, sample: Sample, views: Sequence[ImageView]) -> str:
        return f"{sample.question}\n{FORMAT_REQUEST} The final answer is a whole number."

    def read(self, answer: str, sample: Sample, views: Sequence[ImageView]) -> int | None:
        return read_count(answer)

    def score(self, answer: int, sample: Sample, views: Sequence[ImageView]) -> dict[str, float]:
        return {"correct": float(answer == read_count(sample.answer))}

    def check(self, sample: Sample) -> None:
        count = read_integer(sample.answer)
        if count is None or count < 0:
            raise ValueError(f"the answer {sample.answer[:40]!r} is not a count; write a whole number such as 4")
