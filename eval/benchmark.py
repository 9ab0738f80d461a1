"""What a benchmark is: a task, published splits, and the figures that it reports. Each has a file in this folder."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gpg_vl.evaluation.predictions import DROPPED, NO_IMAGE, Prediction
from gpg_vl.evaluation.scores import Estimate, count_legacy_failures, estimate_legacy, estimate_strict
from gpg_vl.tasks import load_task

if TYPE_CHECKING:
    from gpg_vl.evaluation.evaluate_model import Evaluation

Figures = dict[str, "Figure"]


@dataclass(frozen=True, slots=True)
class RowCounts:
    """What a figure is computed over."""

    num: int  # rows, including those without an image and dropped ones
    published: int
    without_image: int  # count as wrong
    dropped: int  # dropped by the conversion; count as wrong
    legacy_failures: int  # completions for which the published metric failed; wrong in legacy


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a benchmark under both scorers; None if it was not measured."""

    strict: Estimate | None
    legacy: Estimate | None
    rows: RowCounts


@dataclass(frozen=True, slots=True)
class Benchmark:
    name: str
    task: str
    splits: Mapping[str, int]  # name -> published number of rows
    max_new_tokens: int  # of the published evaluation
    converter: str  # module of data_tools that writes the rows
    figures: Callable[[Evaluation, argparse.Namespace], Figures]  # named as in paper_results.yaml
    category: str = "category"  # column, or key of meta, by which scores are also reported
    category_sizes: Mapping[str, int] = field(default_factory=dict)  # published rows of each; {} if not published
    add_options: Callable[[argparse.ArgumentParser], None] = field(default=lambda parser: None)

    @property
    def num_published(self) -> int:
        """Number of rows of all splits."""
        return sum(self.splits.values())


def count_rows(predictions: Sequence[Prediction], published: int) -> RowCounts:
    """
    Args:
        published: number of rows of the published figure
    """
    status = Counter(each.status[0] for each in predictions)
    failures = count_legacy_failures(predictions)
    return RowCounts(len(predictions), published, status[NO_IMAGE], status[DROPPED], failures)


def figure_of(predictions: Sequence[Prediction], task: str, published: int) -> Figure | None:
    """The mean of the task's metric; None if there are no predictions."""
    if not predictions:
        return None
    strict, legacy = estimate_strict(predictions, load_task(task)), estimate_legacy(predictions)
    return Figure(strict, legacy, count_rows(predictions, published))


def in_split(evaluation: Evaluation, split: str) -> list[Prediction]:
    return [prediction for prediction in evaluation.counted if prediction.split == split]


def present(figures: Mapping[str, Figure | None]) -> Figures:
    """The figures that were measured."""
    return {name: figure for name, figure in figures.items() if figure is not None}
