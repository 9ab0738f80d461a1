from __future__ import annotations

import itertools
from typing import Any

import numpy
import pytest
from scipy import stats

from gpg_vl.evaluation.predictions import Prediction
from gpg_vl.evaluation.scores import estimate, pass_at_k, summarise_scores
from gpg_vl.tasks import TASKS


def prediction(row: int, parts: list[float], **changes: Any) -> Prediction:
    """Of the task counting, with one completion per part."""
    k = len(parts)
    values: dict[str, Any] = {
        "row": row, "id": str(row), "task": "counting", "split": "test", "category": "", "question": "?",
        "answer": "4", "views": (), "completions": ("",) * k, "num_tokens": (1,) * k, "finished": (True,) * k,
        "answers": tuple("4" if part else "5" for part in parts), "rewards": tuple(parts),
        "parts": tuple({"correct": part} for part in parts), "status": ("ok",) * k, "legacy": None,
    }  # fmt: skip
    return Prediction(**{**values, **changes})


@pytest.mark.parametrize("seed", range(20))
def test_interval_of_random_zeros_and_ones_is_scipys(seed: int) -> None:
    rng = numpy.random.default_rng(seed)
    n = int(rng.integers(1, 400))
    values = (rng.random(n) < rng.random()).astype(float).tolist()
    expected = stats.binomtest(int(sum(values)), n).proportion_ci(0.95, method="wilson")
    found = estimate(values)
    assert (found.value, found.low, found.high, found.n) == (sum(values) / n, expected.low, expected.high, n)
    z, p = stats.norm.ppf(0.975), sum(values) / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half), abs=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_interval_of_random_means_is_students(seed: int) -> None:
    rng = numpy.random.default_rng(seed)
    values = rng.beta(0.7, 0.9, size=int(rng.integers(3, 60))).tolist()
    found, (low, high) = (
        estimate(values),
        stats.t.interval(0.95, len(values) - 1, numpy.mean(values), stats.sem(values)),
    )
    assert (found.low, found.high) == pytest.approx((max(0, low), min(1, high)), abs=1e-9)


def test_interval_of_one_prompt_says_nothing() -> None:
    assert (estimate([0.5]).low, estimate([0.5]).high) == (0.0, 1.0)
    high = estimate([0.0] * 50).high
    assert high is not None and high > 0.05


def test_categories_legacy_and_status() -> None:
    predictions = [
        prediction(0, [1.0], category="a", legacy=(0.0,)),
        prediction(1, [0.0], category="a", legacy=(0.0,), status=("unparsable",)),
        prediction(2, [1.0], category="b", legacy=(1.0,)),
    ]
    score = summarise_scores(predictions, TASKS)["counting"]
    assert (score.value, score.n, score.status) == (pytest.approx(2 / 3), 3, {"ok": 2, "unparsable": 1})
    assert score.legacy is not None and score.legacy.value == pytest.approx(1 / 3)
    assert {name: (each["strict"].value, each["legacy"].value) for name, each in score.categories.items()} == {  # type: ignore[union-attr]
        "a": (0.5, 0.0),
        "b": (1.0, 1.0),
    }
    assert score.num_legacy_failures == 0
    failed = summarise_scores([prediction(0, [1.0, 1.0], legacy=(1.0, None)), *predictions[1:]], TASKS)["counting"]
    assert failed.legacy is not None and failed.legacy.value == pytest.approx(1.5 / 3)
    assert failed.num_legacy_failures == 1
    without = summarise_scores([prediction(0, [1.0])], TASKS)["counting"]
    assert (without.legacy, without.categories, without.pass_at, without.majority) == (None, {}, {}, None)


@pytest.mark.parametrize(("n", "correct", "k"), [(5, 2, 1), (5, 2, 3), (6, 0, 2), (6, 6, 6), (8, 1, 4)])
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(n: int, correct: int, k: int) -> None:
    draws = list(itertools.combinations([1] * correct + [0] * (n - correct), k))
    assert pass_at_k(n, correct, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_and_majority_of_samples() -> None:
    predictions = [
        prediction(0, [1.0, 0.0, 0.0, 0.0], answers=("4", "5", "5", None)),  # the vote is 5
        prediction(1, [0.0, 1.0, 1.0, 0.0], answers=("7", "4", "4", "8")),
        prediction(2, [1.0, 0.0, 0.0, 0.0], answers=("4", "6", None, None)),  # a tie goes to the first
        prediction(3, [0.0, 0.0, 0.0, 0.0], answers=(None, None, None, None)),
    ]
    score = summarise_scores(predictions, TASKS)["counting"]
    assert {k: each.value for k, each in score.pass_at.items()} == pytest.approx(
        {"1": (1 / 4 + 1 / 2 + 1 / 4) / 4, "2": (1 / 2 + 5 / 6 + 1 / 2) / 4, "4": 3 / 4}
    )
    assert score.value == pytest.approx(score.pass_at["1"].value)
    assert score.majority is not None and score.majority.value == 0.5
