"""One of several choices, answered by its letter or by its text (SAT, CV-Bench).

The options are the row's column ``options`` or ``choices``, or those that the question letters, as ``(A) left``; a row
without either is answered by text.
"""

from __future__ import annotations

from collections.abc import Sequence

from gpg_vl.records import ImageView, Sample
from gpg_vl.tasks.base import FORMAT_REQUEST, Task
from gpg_vl.tasks.legacy.choices import CHOICE
from gpg_vl.verifiers.choices import read_choice, row_options


class Choice(Task):
    name = "choice"
    legacy = CHOICE

    def ask(self, sample: Sample, views: Sequence[ImageView]) -> str:
        return f"{sample.question}\n{FORMAT_REQUEST} The final answer is one of the choices."

    def read(self, answer: str, sample: Sample, views: Sequence[ImageView]) -> str | None:
        return read_choice(answer, row_options(sample.meta, sample.question))

    def score(self, answer: str, sample: Sample, views: Sequence[ImageView]) -> dict[str, float]:
        return {"correct": float(answer == self.read(sample.answer, sample, views))}

    def check(self, sample: Sample) -> None:
        options = row_options(sample.meta, sample.question)
        if read_choice(sample.answer, options) is None:
            raise ValueError(
                f"the answer {sample.answer[:40]!r} is none of the choices {options}; write its letter or text"
            )
