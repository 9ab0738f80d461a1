"""What a benchmark is: a task, published splits, and the figures that it reports. Each is a file beside this one."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from gpg_vl.evaluate_model import Evaluation
from gpg_vl.predictions import Prediction
from gpg_vl.scores import Estimate, estimate_legacy, estimate_strict
from gpg_vl.tasks import load_task

Figures = dict[str, "Figure"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a benchmark under both scorers; None where it was not measured."""

    strict: Estimate | None
    legacy: Estimate | None


@dataclass(frozen=True, slots=True)
class Benchmark:
    name: str
    task: str
    splits: Mapping[str, int]  # name to the number of rows that was published
    max_new_tokens: int  # of the published evaluation
    converter: str  # that writes the rows
    figures: Callable[[Evaluation, argparse.Namespace], Figures]  # by the names of paper_results.yaml
    category: str = "category"  # the column, or key of meta, that scores are reported by
    category_sizes: Mapping[str, int] = field(default_factory=dict)  # published rows of each; {} where not published
    add_options: Callable[[argparse.ArgumentParser], None] = field(default=lambda parser: None)


def figure_of(predictions: Sequence[Prediction], task: str) -> Figure | None:
    """The mean of the task's metric; None where there are no predictions."""
    if not predictions:
        return None
    return Figure(estimate_strict(predictions, load_task(task)), estimate_legacy(predictions))


def in_split(evaluation: Evaluation, split: str) -> list[Prediction]:
    return [prediction for prediction in evaluation.counted if prediction.split == split]


def present(figures: Mapping[str, Figure | None]) -> Figures:
    """The figures that there are."""
    return {name: figure for name, figure in figures.items() if figure is not None}
