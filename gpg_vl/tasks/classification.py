"""Which fine-grained class a picture shows: its name, right or wrong, and no other name.

The classes are the row's column ``options``, ``choices`` or ``classes``, or those of the task: a subclass of
``Classification`` with ``classes = (...)``. A row without any is answered by the words of its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from gpg_vl.records import ImageView, Sample
from gpg_vl.tasks.base import FORMAT_REQUEST, Task
from gpg_vl.tasks.legacy.names import CLASSIFICATION
from gpg_vl.verifiers.names import Name, NameReader, is_same_name, name_reader, read_name
from gpg_vl.verifiers.options import row_options


class Classification(Task):
    name = "classification"
    legacy = CLASSIFICATION
    classes: ClassVar[Sequence[str]] = ()
    """The names to tell apart, where rows do not list them."""

    def ask(self, sample: Sample, views: Sequence[ImageView]) -> str:
        return f"{sample.question}\n{FORMAT_REQUEST} The final answer is the name alone."

    def read(self, answer: str, sample: Sample, views: Sequence[ImageView]) -> Name | None:
        reader = self._reader(sample)
        return read_name(answer) if reader is None else reader(answer)

    def score(self, answer: Name, sample: Sample, views: Sequence[ImageView]) -> dict[str, float]:
        is_right = is_same_name(answer, read_name(sample.answer)) or is_same_name(answer, self._read_gold(sample))
        return {"correct": float(is_right)}

    def check(self, sample: Sample) -> None:
        if self._read_gold(sample) is None:
            raise ValueError(f"the answer {sample.answer[:40]!r} is no name; write one such as rose or Boeing 737-200")

    def _read_gold(self, sample: Sample) -> Name | None:
        return self.read(sample.answer, sample, ())

    def _reader(self, sample: Sample) -> NameReader | None:
        """What reads with the list of classes, where there is one and the gold answer is in it."""
        classes = _listed_in(sample.meta) or tuple(self.classes)
        if not classes:
            return None
        reader = name_reader(classes)
        return reader if reader(sample.answer) is not None else None


def _listed_in(meta: Mapping[str, Any]) -> tuple[str, ...]:
    given = meta.get("options") or meta.get("choices") or meta.get("classes")
    if isinstance(given, list) and isinstance(given[0], str):
        return tuple(given)
    return tuple(row_options({"options": given}, "")) if given else ()
