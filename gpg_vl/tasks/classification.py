"""Which fine-grained class a picture shows: its name, right or wrong, and no other name."""

from __future__ import annotations

from collections.abc import Sequence

from gpg_vl.records import ImageView, Sample
from gpg_vl.tasks.base import FORMAT_REQUEST, Task
from gpg_vl.tasks.legacy.names import CLASSIFICATION
from gpg_vl.verifiers.names import normalise_name


class Classification(Task):
    name = "classification"
    legacy = CLASSIFICATION

    def ask(self, sample: Sample, views: Sequence[ImageView]) -> str:
        return f"{sample.question}\n{FORMAT_REQUEST} The final answer is the name alone."

    def read(self, answer: str, sample: Sample, views: Sequence[ImageView]) -> str | None:
        return normalise_name(answer)

    def score(self, answer: str, sample: Sample, views: Sequence[ImageView]) -> dict[str, float]:
        return {"correct": float(answer == normalise_name(sample.answer))}

    def check(self, sample: Sample) -> None:
        if normalise_name(sample.answer) is None:
            raise ValueError(f"the answer {sample.answer[:40]!r} is no name; write one such as rose or Boeing 737-200")
