"""Predictions -> scores: means over prompts with their 95 % intervals, by task and by category; pass@k and maj@k.

A completion that could not be scored, or whose image is missing, counts as 0: a score covers all prompts.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from scipy.stats import binomtest
from scipy.stats import t as student

from gpg_vl.evaluation.predictions import Prediction
from gpg_vl.screen import printable
from gpg_vl.tasks.base import Task


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure over ``n`` prompts with its 95 % interval, all in [0, 1]."""

    value: float
    low: float | None  # None if the figure is not a mean over prompts, such as AP, and so has no interval
    high: float | None
    n: int


@dataclass(frozen=True, slots=True)
class TaskScore:
    """The score of one task; ``value``, ``low`` and ``high`` are for the mean metric of the strict scorer."""

    metric: str
    value: float
    low: float | None
    high: float | None
    reward: float  # mean total reward
    n: int  # prompts
    num_samples: int  # completions per prompt
    status: dict[str, int]
    legacy: Estimate | None = None  # published metric; None if there is none or it was not requested (validation)
    num_legacy_failures: int = 0  # completions for which the published metric failed; they count as 0
    categories: dict[str, dict[str, Estimate | None]] = field(default_factory=dict)  # strict and legacy of each
    pass_at: dict[str, Estimate] = field(default_factory=dict)  # k -> chance that at least one of k samples is right
    majority: Estimate | None = None  # maj@k: the most frequent answer of all k samples

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def summarise_scores(predictions: Sequence[Prediction], tasks: Mapping[str, Task]) -> dict[str, TaskScore]:
    """The score of each task among the predictions, by name."""
    by_task: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        by_task.setdefault(prediction.task, []).append(prediction)
    return {name: score_task(tasks[name], members) for name, members in sorted(by_task.items())}


def score_task(task: Task, predictions: Sequence[Prediction]) -> TaskScore:
    strict = estimate_strict(predictions, task)
    is_sampled = len(predictions[0].completions) > 1 and task.metric == "accuracy"
    return TaskScore(
        metric=task.metric,
        value=strict.value,
        low=strict.low,
        high=strict.high,
        reward=statistics.fmean(reward for each in predictions for reward in each.rewards),
        n=len(predictions),
        num_samples=len(predictions[0].completions),
        status=dict(Counter(status for each in predictions for status in each.status)),
        legacy=estimate_legacy(predictions),
        num_legacy_failures=count_legacy_failures(predictions),
        categories=_score_categories(task, predictions),
        pass_at=_pass_at(task, predictions) if is_sampled else {},
        majority=_majority(task, predictions) if is_sampled else None,
    )


def _score_categories(task: Task, predictions: Sequence[Prediction]) -> dict[str, dict[str, Estimate | None]]:
    """The scores of every category, in alphabetical order; {} if the rows have none."""
    by_category: dict[str, list[Prediction]] = {}
    for each in predictions:
        if each.category:
            by_category.setdefault(each.category, []).append(each)
    return {
        name: {"strict": estimate_strict(members, task), "legacy": estimate_legacy(members)}
        for name, members in sorted(by_category.items())
    }


def estimate_strict(predictions: Sequence[Prediction], task: Task) -> Estimate:
    """The mean of the task's metric over prompts, each the mean over its completions."""
    return estimate([statistics.fmean(_main_parts(each, task)) for each in predictions])


def estimate_legacy(predictions: Sequence[Prediction]) -> Estimate | None:
    """The mean of the published metric; None unless all predictions have it."""
    values = [
        statistics.fmean(value or 0.0 for value in each.legacy) for each in predictions if each.legacy is not None
    ]
    return estimate(values) if values and len(values) == len(predictions) else None


def count_legacy_failures(predictions: Sequence[Prediction]) -> int:
    """Number of completions for which the published metric failed."""
    return sum(value is None for each in predictions for value in each.legacy or ())


def _main_parts(prediction: Prediction, task: Task) -> list[float]:
    return [parts.get(task.main_part, 0.0) for parts in prediction.parts]


def _pass_at(task: Task, predictions: Sequence[Prediction]) -> dict[str, Estimate]:
    """pass@k for k = 1, 2, 4 ... and all; the unbiased estimate from all samples (arXiv 2107.03374, Eq. 1)."""
    n = len(predictions[0].completions)
    counts = [sum(part == 1 for part in _main_parts(each, task)) for each in predictions]
    ks = sorted({2**power for power in range(n.bit_length()) if 2**power <= n} | {n})
    return {str(k): estimate([pass_at_k(n, correct, k) for correct in counts]) for k in ks}


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The chance that at least one of k samples is right, drawn from n of which ``correct`` are right."""
    return 1 - math.comb(n - correct, k) / math.comb(n, k)


def _majority(task: Task, predictions: Sequence[Prediction]) -> Estimate:
    return estimate([_majority_score(each.answers, _main_parts(each, task)) for each in predictions])


def _majority_score(answers: Sequence[str | None], scores: Sequence[float]) -> float:
    """The score of the most frequent answer, or the first of equally frequent ones; unreadable answers do not vote."""
    counts = Counter(answer for answer in answers if answer is not None)
    if not counts:
        return 0.0
    winner = max(counts, key=counts.__getitem__)  # a Counter keeps the order of first occurrence
    return scores[list(answers).index(winner)]


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and 95 % interval over prompts: Wilson's for values of only 0 and 1, otherwise Student's."""
    mean, n = statistics.fmean(values), len(values)
    if set(values) <= {0.0, 1.0}:
        interval = binomtest(round(sum(values)), n).proportion_ci(0.95, method="wilson")
        return Estimate(mean, float(interval.low), float(interval.high), n)
    half = float(student.ppf(0.975, n - 1)) * statistics.stdev(values) / math.sqrt(n) if n > 1 else 1.0
    return Estimate(mean, max(0.0, mean - half), min(1.0, mean + half), n)


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """The unweighted mean of independent estimates, with a 95 % interval from theirs: the distances to their ends are
    added in squares (the method of variance estimates recovery)."""
    k, value = len(estimates), statistics.fmean(each.value for each in estimates)
    below = math.hypot(*(each.value - (each.low or 0.0) for each in estimates)) / k
    above = math.hypot(*((each.high or 1.0) - each.value for each in estimates)) / k
    return Estimate(value, value - below, value + above, sum(each.n for each in estimates))


def describe_score(task: str, score: TaskScore) -> list[str]:
    """Lines for the screen."""

    def write(estimate: Any) -> str:  # an ``Estimate``, or the score of a task
        return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"

    def legacy(estimate: Any) -> str:
        return "" if estimate is None else f"  legacy {estimate.value:.3f}"

    lines = [f"{task}: {score.metric} {write(score)}{legacy(score.legacy)}  reward {score.reward:.3f}  n {score.n}"]
    for name, each in score.categories.items():
        assert each["strict"] is not None
        lines.append(f"  {printable(name)}: {write(each['strict'])}{legacy(each['legacy'])}  n {each['strict'].n}")
    lines += [f"  pass@{k}: {write(estimate)}" for k, estimate in score.pass_at.items()]
    return lines if score.majority is None else [*lines, f"  maj@{score.num_samples}: {write(score.majority)}"]
