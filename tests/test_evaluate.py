from __future__ import annotations

import pytest
import torch
from scipy import stats

from gpg_vl.config import RewardsConfig
from gpg_vl.evaluate import mean_interval, measure_published, summarise_scores
from gpg_vl.records import Completion, ImageView, Prompt, Sample, ScoredGroup
from gpg_vl.scoring import Scorer
from gpg_vl.tasks import TASKS
from gpg_vl.tasks.base import score_completion


def test_interval_of_zeros_and_ones_is_wilsons() -> None:
    low, high = mean_interval([1.0] * 7 + [0.0] * 13)
    z, n, p = 1.959964, 20, 0.35
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    assert (low, high) == pytest.approx((centre - half, centre + half), abs=1e-6)
    assert mean_interval([0.0] * 50)[0] == 0
    assert mean_interval([0.0] * 50)[1] > 0.05


def test_interval_of_means_is_the_normal_one() -> None:
    values = [0.1, 0.4, 0.35, 0.8, 0.25, 0.5]
    expected = stats.norm.interval(0.95, sum(values) / 6, stats.sem(values))
    assert mean_interval(values) == pytest.approx(expected, abs=1e-4)
    assert mean_interval([0.5]) == (0.0, 1.0)


def scored_group(task: str, gold: str, *texts: str) -> ScoredGroup:
    sample = Sample(f"{task}-1", task, ("picture.png",), "What is asked?", gold)
    view = ImageView(1000, 1000, 1000, 1000, "grid_1000")
    prompt = Prompt(sample, "Q", (1,), (0,), torch.zeros(3, 1), None, None, (view,))
    completions = tuple(Completion((1,), text, finished=True) for text in texts)
    rewards = tuple(score_completion(TASKS[task], sample, text, [view]) for text in texts)
    return ScoredGroup(prompt, completions, rewards)


def test_published_metric_stands_beside_the_strict_one() -> None:
    groups = [
        scored_group("classification", "rose", "<answer></answer>", "<answer>rose</answer>"),
        scored_group(
            "grounding", "[0, 0, 100, 100]", "<think>(0,0),(100,100)</think><answer>[500, 500, 600, 600]</answer>"
        ),
    ]
    with Scorer(RewardsConfig()) as scorer:
        scores = summarise_scores(groups, TASKS, measure_published(groups, TASKS, scorer, groups_at_once=1))
    assert (scores["classification"].value, scores["classification"].legacy) == (0.5, 1.0)
    assert (scores["grounding"].value, scores["grounding"].legacy) == (0.0, pytest.approx(1, abs=1e-3))
    assert summarise_scores(groups, TASKS)["grounding"].legacy is None, "validation goes without"
    assert scores["grounding"].to_dict()["legacy"] == scores["grounding"].legacy
