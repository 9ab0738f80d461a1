"""Which fine-grained class a picture shows: its name, right or wrong, and no other name.

The classes are the row's column ``options``, ``choices`` or ``classes``, or those of the task: a subclass of
``Classification`` with ``classes = (...)``. A row without any is answered by the words of its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from gpg_vl.records import ImageView, Sample
from gpg_vl.tasks.base import FORMAT_REQUEST, Task
from gpg_vl.tasks.legacy.names import CLASSIFICATION
from gpg_vl.verifiers.class_lists import name_reader
from gpg_vl.verifiers.names import Name, NameReader, is_same_name, read_name
from gpg_vl.verifiers.options import row_options


@dataclass(frozen=True, slots=True)
class _PreparedName:
    """What the completions of a row share, prepared once: how to read an answer, and the gold answer's names."""

    sample: Sample
    read: NameReader
    by_words: Name | None  # of the gold answer
    by_class: Name | None


class Classification(Task):
    name = "classification"
    legacy = CLASSIFICATION
    classes: ClassVar[Sequence[str]] = ()
    """The names to tell apart, where rows do not list them."""
    _last: _PreparedName | None = None

    def ask(self, sample: Sample, views: Sequence[ImageView]) -> str:
        return f"{sample.question}\n{FORMAT_REQUEST} The final answer is the name alone."

    def read(self, answer: str, sample: Sample, views: Sequence[ImageView]) -> Name | None:
        return self._prepared_for(sample).read(answer)

    def score(self, answer: Name, sample: Sample, views: Sequence[ImageView]) -> dict[str, float]:
        row = self._prepared_for(sample)
        return {"correct": float(is_same_name(answer, row.by_words) or is_same_name(answer, row.by_class))}

    def check(self, sample: Sample) -> None:
        row = self._prepared_for(sample)
        if row.by_words is None and row.by_class is None:
            raise ValueError(
                f"the answer {sample.answer[:40]!r} is not a name; write one such as rose or Boeing 737-200"
            )

    def _prepared_for(self, sample: Sample) -> _PreparedName:
        """Completions of one row come one after the other: the last row is kept."""
        last = self._last
        if last is None or last.sample is not sample:
            last = self._last = _prepare(sample, _listed(_given_in(sample.meta) or self.classes))
        return last


def _prepare(sample: Sample, classes: tuple[str, ...]) -> _PreparedName:
    """Answers are read with the list of classes, where there is one and the gold answer is in it."""
    by_class = name_reader(classes)(sample.answer) if classes else None
    return _PreparedName(
        sample, read_name if by_class is None else name_reader(classes), read_name(sample.answer), by_class
    )


def _given_in(meta: Mapping[str, Any]) -> Any:
    return meta.get("options") or meta.get("choices") or meta.get("classes")


def _listed(given: Any) -> tuple[str, ...]:
    if not given or (isinstance(given, tuple | list) and isinstance(given[0], str)):
        return tuple(given)
    return tuple(row_options({"options": given}, ""))
