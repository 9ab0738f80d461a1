"""Which fine-grained class a picture shows: its name, right or wrong, and no other name.

The classes are the row's column ``options``, ``choices`` or ``classes``, or those of the task: a subclass of
``Classification`` with ``classes = (...)``. A row without any is answered by the words of its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from gpg_vl.records import ImageView, Sample
from gpg_vl.tasks.base import FORMAT_REQUEST, Task
from gpg_vl.tasks.legacy.names import CLASSIFICATION
from gpg_vl.verifiers.names import normalise_name, read_name
from gpg_vl.verifiers.options import row_options


class Classification(Task):
    name = "classification"
    legacy = CLASSIFICATION
    classes: ClassVar[Sequence[str]] = ()
    """The names to tell apart, where rows do not list them."""

    def ask(self, sample: Sample, views: Sequence[ImageView]) -> str:
        return f"{sample.question}\n{FORMAT_REQUEST} The final answer is the name alone."

    def read(self, answer: str, sample: Sample, views: Sequence[ImageView]) -> str | None:
        """The gold name itself where that is what the answer says; else a key of the name, None for none."""
        if is_spelled_alike(answer, sample.answer):
            return sample.answer
        found = read_name(answer, self._classes_of(sample))
        return sample.answer if found is not None and found == self._gold(sample) else found

    def score(self, answer: str, sample: Sample, views: Sequence[ImageView]) -> dict[str, float]:
        return {"correct": float(answer == sample.answer)}

    def check(self, sample: Sample) -> None:
        if self._gold(sample) is None:
            raise ValueError(f"the answer {sample.answer[:40]!r} is no name that can be told; write one of the classes")

    def _gold(self, sample: Sample) -> str | None:
        return read_name(sample.answer, self._classes_of(sample))

    def _classes_of(self, sample: Sample) -> Sequence[str]:
        """The list of classes, where the gold answer is one of them."""
        given = sample.meta.get("classes")
        meta = sample.meta if given is None else {"options": given}
        listed = row_options(meta, "") or self.classes
        return listed if not listed or read_name(sample.answer, listed) is not None else ()


def is_spelled_alike(answer: str, gold: str) -> bool:
    """Whether two names differ in case, spaces and marks at most."""
    name = normalise_name(answer)
    return name is not None and name == normalise_name(gold)
