"""``metrics.jsonl`` -> curves for a page: however long the run was, a few hundred points each, with the spread."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

MAX_POINTS = 300


@dataclass(frozen=True, slots=True)
class Curve:
    """One number over the steps. With more steps than points, a point is the mean of several neighbouring steps."""

    name: str
    steps: list[float]
    values: list[float]
    low: list[float]  # the 10th percentile of the steps of each point; of a validation, its interval's lower end
    high: list[float]  # the 90th, or the upper end


@dataclass(frozen=True, slots=True)
class Chart:
    """Curves that share an axis."""

    title: str
    explanation: str
    curves: list[Curve]


Rows = Sequence[Mapping[str, Any]]
_Getter = Callable[[Mapping[str, Any]], Any]


def make_curve(name: str, rows: Rows, get: _Getter) -> Curve | None:
    """The curve of ``get(row)``; None if no row has a finite number."""
    pairs = [(row["step"], value) for row in rows if _is_number(value := get(row))]
    if not pairs:
        return None
    parts = numpy.array_split(numpy.array(pairs, dtype=float), min(len(pairs), MAX_POINTS))
    low, high = zip(*(numpy.percentile(part[:, 1], [10, 90]) for part in parts), strict=True)
    means = [part.mean(axis=0) for part in parts]
    return Curve(
        name, [float(mean[0]) for mean in means], [float(mean[1]) for mean in means], [float(v) for v in low],
        [float(v) for v in high],
    )  # fmt: skip


def make_charts(rows: Rows) -> list[Chart]:
    """The charts of a run, those without a number left out.

    Args:
        rows: of ``metrics.jsonl``
    """
    steps = [row for row in rows if "seconds" in row]
    charts = [
        _chart("Reward", "Mean total reward of all completions, by task.", steps, "reward", "reward_by_task"),
        _chart("Reward by part", "Mean of each part before weights; unscored ones count 0.", steps, None, "parts"),
        _validations([row for row in rows if row.get("eval")]),
        *(_several(title, explanation, steps, getters) for title, explanation, getters in _SINGLE_CHARTS),
    ]
    return [chart for chart in charts if chart.curves]


def _chart(title: str, explanation: str, rows: Rows, whole: str | None, by_name: str) -> Chart:
    """A curve for each name in ``row[by_name]``, after one of the whole, where there are several."""
    names = sorted({name for row in rows for name in row.get(by_name, {})})
    getters: dict[str, _Getter] = {name: _entry(by_name, name) for name in names}
    if whole is not None and len(names) != 1:
        getters = {"all": lambda row: row.get(whole), **getters}
    return _several(title, explanation, rows, getters)


def _several(title: str, explanation: str, rows: Rows, getters: Mapping[str, _Getter]) -> Chart:
    curves = (make_curve(name, rows, get) for name, get in getters.items())
    return Chart(title, explanation, [curve for curve in curves if curve is not None])


def _validations(rows: Rows) -> Chart:
    """A curve for each task; with more validations than points, evenly spaced ones and the last."""
    kept = rows[::-1][:: -(-len(rows) // MAX_POINTS) or 1][::-1]
    names = sorted({name for row in kept for name in row["eval"]})
    curves = [_validation(name, kept) for name in names]
    return Chart("Validation", "Score on data.eval; bands are 95 % intervals.", [each for each in curves if each.steps])


def _validation(task: str, rows: Rows) -> Curve:
    scores = [(float(row["step"]), row["eval"].get(task, {})) for row in rows]
    known = [(step, score) for step, score in scores if _is_number(score.get("value"))]
    values = [float(score["value"]) for _, score in known]
    low, high = ([_end(score, name) for _, score in known] for name in ("low", "high"))
    return Curve(task, [step for step, _ in known], values, low, high)


def _end(score: Mapping[str, Any], name: str) -> float:
    """Of the interval; the value itself where it has none."""
    return float(score[name] if _is_number(score.get(name)) else score["value"])


def _entry(key: str, name: str) -> _Getter:
    return lambda row: row.get(key, {}).get(name)


def _second(name: str) -> _Getter:
    return lambda row: row["seconds"].get(name)


def _of_update(row: Mapping[str, Any], name: str) -> Any:
    return (row.get("update") or {}).get(name)


def _cut_off(row: Mapping[str, Any]) -> float | None:
    return 1 - row["finished"] if "finished" in row else None


def _failed(row: Mapping[str, Any]) -> float | None:
    return None if "status" not in row else sum(_status_share(row, name) or 0.0 for name in ("timeout", "error"))


def _status_share(row: Mapping[str, Any], status: str) -> float | None:
    counts = row.get("status") or {}
    return _ratio(counts.get(status, 0), sum(counts.values()))


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_SINGLE_CHARTS: tuple[tuple[str, str, dict[str, _Getter]], ...] = (
    (
        "Groups with signal",
        "Share of the sampled groups whose rewards differ: only these can teach anything.",
        {"with signal": lambda row: _ratio(row.get("trained_groups"), row.get("groups"))},
    ),
    (
        "Alpha and draws",
        "Alpha = sampled / trained groups (paper, Eq. 7). Draws: how often prompts were drawn for a step.",
        {"alpha": lambda row: row.get("alpha"), "draws": lambda row: row.get("draws")},
    ),
    ("Length", "Mean tokens of a completion.", {"tokens": lambda row: row.get("completion_tokens")}),
    (
        "Cut off and unreadable",
        "Share of completions that reached rollout.max_new_tokens, and of those without a readable answer.",
        {"cut off": _cut_off, "unreadable": lambda row: _status_share(row, "unparsable"), "failed": _failed},
    ),
    (
        "Different answers",
        "Answer diversity: 0 where all answers to a prompt are the same, 1 where all differ.",
        {"diversity": lambda row: row.get("answer_diversity")},
    ),
    ("Entropy", "Of the tokens that were trained on, in nats.", {"entropy": lambda row: _of_update(row, "entropy")}),
    ("Gradient norm", "Before clipping.", {"norm": lambda row: _of_update(row, "grad_norm")}),
    ("KL", "Mean k3 to the frozen reference, in nats.", {"kl": lambda row: _of_update(row, "kl")}),
    ("Learning rate", "Of each step.", {"rate": lambda row: row.get("learning_rate")}),
    (
        "Seconds by phase",
        "Wall-clock time of a step.",
        {name: _second(name) for name in ("step", "rollout", "scoring", "update")},
    ),
)


def mean_of(values: Iterable[float]) -> float | None:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else None
