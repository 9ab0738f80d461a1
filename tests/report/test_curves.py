"""Curves: few points, true means, honest bands."""

from __future__ import annotations

import numpy
import pytest

from gpg_vl.report.curves import MAX_POINTS, make_charts, make_curve
from tests.support.recorded_runs import metrics_of


def test_a_short_run_is_shown_as_it_is() -> None:
    rows = [{"step": step, "x": step**2} for step in range(1, 6)]
    curve = make_curve("x", rows, lambda row: row["x"])
    assert curve is not None
    assert curve.steps == [1, 2, 3, 4, 5] and curve.values == curve.low == curve.high == [1, 4, 9, 16, 25]


def test_a_long_run_has_means_and_percentiles() -> None:
    rows = [{"step": step, "x": float(step % 7)} for step in range(1, 10_001)]
    curve = make_curve("x", rows, lambda row: row["x"])
    assert curve is not None and len(curve.steps) == MAX_POINTS
    parts = numpy.array_split([row["x"] for row in rows], MAX_POINTS)
    assert curve.values == pytest.approx([part.mean() for part in parts])
    assert curve.low == pytest.approx([numpy.percentile(part, 10) for part in parts])
    assert curve.high == pytest.approx([numpy.percentile(part, 90) for part in parts])


def test_what_is_no_number_is_left_out() -> None:
    values = [1.0, None, float("nan"), True, "2", 3]
    curve = make_curve("x", [{"step": n, "x": value} for n, value in enumerate(values)], lambda row: row["x"])
    assert curve is not None and (curve.steps, curve.values) == ([0, 5], [1.0, 3.0])
    assert make_curve("x", [{"step": 1}], lambda row: row.get("x")) is None


def test_charts_are_those_that_the_run_has_numbers_for() -> None:
    rows = [{"step": step, **metrics_of(0.1 * step)} for step in range(1, 4)]
    rows += [{"step": 3, "eval": {}}, {"step": 4, "update": None, "seconds": {"step": 1.0}}]
    charts = {chart.title: chart for chart in make_charts(rows)}
    assert "KL" not in charts
    [signal] = charts["Groups with signal"].curves
    assert signal.values == [0.75] * 3
    shares = {curve.name: curve.values[0] for curve in charts["Cut off and unreadable"].curves}
    assert shares == pytest.approx({"cut off": 0.1, "unreadable": 0.25, "failed": 0.0})
    assert [curve.name for curve in charts["Reward"].curves] == ["counting"]
    two = [{"step": 1, **metrics_of(0.5, reward_by_task={"a": 0.25, "b": 0.75})}]
    assert [curve.name for curve in make_charts(two)[0].curves] == ["all", "a", "b"]


def test_validations_have_their_intervals() -> None:
    score = {"metric": "accuracy", "value": 0.5, "low": 0.4, "high": 0.6}
    rows = [
        {"step": 10, "eval": {"counting": score, "grounding": {**score, "low": None, "high": None}}},
        {"step": 15, **metrics_of(0.5)},
        {"step": 20, "eval": {"counting": {**score, "value": 0.7, "low": 0.6, "high": 0.8}}},
    ]
    [chart] = [chart for chart in make_charts(rows) if chart.title == "Validation"]
    counting, grounding = chart.curves
    assert (counting.steps, counting.values, counting.low, counting.high) == (
        [10, 20], [0.5, 0.7], [0.4, 0.6], [0.6, 0.8],
    )  # fmt: skip
    assert (grounding.steps, grounding.low, grounding.high) == ([10], [0.5], [0.5]), "a figure without an interval"


def test_of_many_validations_some_are_shown_and_the_last() -> None:
    rows = [{"step": step, "eval": {"counting": {"value": step / 1000}}} for step in range(1, 1001)]
    [curve] = [chart.curves[0] for chart in make_charts(rows) if chart.title == "Validation"]
    assert len(curve.steps) <= MAX_POINTS and curve.steps[-1] == 1000
