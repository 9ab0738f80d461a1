"""One of several choices, answered by its letter or by its text (SAT, CV-Bench).

The options are the row's column ``options`` or ``choices``, or those that the question letters, as ``(A) left``; a row
without either is answered by text.
"""

from __future__ import annotations

from collections.abc import Sequence

from gpg_vl.records import ImageView, Sample
from gpg_vl.tasks.base import FORMAT_REQUEST, Task
from gpg_vl.tasks.legacy.choices import CHOICE
from gpg_vl.verifiers.choices import normalise_choice, read_choice, row_options


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
        shown = str([option[:40] for option in options[:8]])
        texts = [normalise_choice(option) for option in options]
        twice = next((option for option, text in zip(options, texts, strict=True) if texts.count(text) > 1), None)
        if read_choice(sample.answer, options) is None and twice is not None:
            raise ValueError(
                f"the answer {sample.answer[:40]!r} is no single one of the choices {shown}, "
                f"which hold {twice[:40]!r} more than once; write each choice once"
            )
        if read_choice(sample.answer, options) is None:
            raise ValueError(
                f"the answer {sample.answer[:40]!r} is none of the choices {shown}; write its letter or text"
            )
