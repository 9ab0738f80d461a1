"""The rows of an evaluation, numbered over all sources."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import overload

from gpg_vl.preflight.sources import CheckedSources
from gpg_vl.records import Sample


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """A sample with its place in the evaluation."""

    number: int  # counted from 0 over all splits
    split: str
    sample: Sample
    category: str = ""


class LazyRows(Sequence[EvaluationRow]):
    """Rows that are made on access, so that their images are never in memory together."""

    def __init__(self, places: Sequence[tuple[str, Sequence[Sample], int]], numbers: Sequence[int], category: str):
        """
        Args:
            places: split, samples and position among them of each row of the evaluation
            numbers: which of ``places`` these rows are
            category: the column, or key of ``meta``, by which scores are reported
        """
        self._places = places
        self._numbers = numbers
        self._category = category

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> EvaluationRow: ...

    @overload
    def __getitem__(self, index: slice) -> LazyRows: ...

    def __getitem__(self, index: int | slice) -> EvaluationRow | LazyRows:
        if isinstance(index, slice):
            return LazyRows(self._places, self._numbers[index], self._category)
        number = self._numbers[index]
        split, samples, position = self._places[number]
        sample = samples[position]
        return EvaluationRow(number, split, sample, str(sample.meta.get(self._category) or ""))

    def without(self, done: Collection[int]) -> LazyRows:
        """These rows without those whose numbers are in ``done``."""
        return LazyRows(self._places, [number for number in self._numbers if number not in done], self._category)


def number_rows(checked: CheckedSources, splits: Sequence[str] = (), category: str = "category") -> LazyRows:
    """The rows of all sources, one after the other.

    Args:
        splits: name of each source; (): the sources' own names
        category: the column, or key of ``meta``, by which scores are reported
    """
    names = splits or [source.name for source in checked.sources]
    places = [
        (split, source.samples, position)
        for split, source in zip(names, checked.sources, strict=True)
        for position in range(len(source.samples))
    ]
    return LazyRows(places, range(len(places)), category)
