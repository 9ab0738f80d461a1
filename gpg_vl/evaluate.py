"""Samples -> scores: the tasks that train also evaluate, on greedy or sampled completions.

A completion that could not be scored counts 0 here, also where training drops its group: a score is of all prompts.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy.stats import binomtest

from gpg_vl.config import EvaluationConfig
from gpg_vl.prompting import PromptBuilder
from gpg_vl.records import Sample, ScoredGroup
from gpg_vl.rollout import HfEngine, Sampling
from gpg_vl.scoring import Scorer
from gpg_vl.tasks.base import Task


@dataclass(frozen=True, slots=True)
class TaskScore:
    """The score of one task; ``value`` and its 95 % interval are means over prompts of the metric, in [0, 1].

    ``value`` and ``reward`` are the strict scorer's, ``legacy`` is the mean of the published metric.
    """

    metric: str
    value: float
    low: float
    high: float
    reward: float  # mean total reward
    n: int  # prompts
    num_samples: int  # completions per prompt
    status: dict[str, int]
    legacy: float | None = None  # None where the task has no published scorer, or it was not asked for (validation)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Evaluator:
    """Generates and scores; batches only bound the memory, they do not change what is sampled."""

    def __init__(
        self,
        prompts: PromptBuilder,
        engine: HfEngine,
        scorer: Scorer,
        evaluation: EvaluationConfig,
        max_new_tokens: int,
        seed: int,
    ):
        self._prompts = prompts
        self._engine = engine
        self._scorer = scorer
        self._num_samples = evaluation.num_samples
        self._sampling = Sampling(evaluation.max_new_tokens or max_new_tokens, evaluation.temperature)
        self._seed = seed

    def run(
        self,
        samples: Sequence[Sample],
        prompts_at_once: int = 256,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[ScoredGroup]:
        """One scored group of ``num_samples`` completions per sample, in order."""
        groups: list[ScoredGroup] = []
        for start in range(0, len(samples), prompts_at_once):
            prompts = [self._prompts.build(sample) for sample in samples[start : start + prompts_at_once]]
            seeds = [("evaluation", self._seed, prompt.sample.id) for prompt in prompts]
            rolled = self._engine.generate(prompts, self._num_samples, self._sampling, seeds)
            groups += self._scorer.score(rolled, "strict")
            on_progress(len(groups), len(samples))
        return groups


def summarise_scores(
    groups: Sequence[ScoredGroup], tasks: Mapping[str, Task], published: Mapping[str, float] | None = None
) -> dict[str, TaskScore]:
    """The score of each task among the groups.

    Args:
        published: the published metric by task, from ``measure_published``; it can be slow, so validation goes without
    """
    legacy = published or {}
    return {
        name: _score_task(tasks[name], members, legacy.get(name)) for name, members in _split_by_task(groups).items()
    }


def measure_published(
    groups: Sequence[ScoredGroup], tasks: Mapping[str, Task], scorer: Scorer, groups_at_once: int = 256
) -> dict[str, float]:
    """The mean of the published metric, of each task among the groups that has one."""
    means = {}
    for name, members in _split_by_task(groups).items():
        if tasks[name].legacy is not None:
            parts = [members[n : n + groups_at_once] for n in range(0, len(members), groups_at_once)]
            means[name] = statistics.fmean(v for part in parts for vs in scorer.measure_published(part) for v in vs)
    return means


def _split_by_task(groups: Sequence[ScoredGroup]) -> dict[str, list[ScoredGroup]]:
    by_task: dict[str, list[ScoredGroup]] = {}
    for group in groups:
        by_task.setdefault(group.prompt.sample.task, []).append(group)
    return dict(sorted(by_task.items()))


def _score_task(task: Task, groups: Sequence[ScoredGroup], legacy: float | None) -> TaskScore:
    values = [statistics.fmean(reward.parts.get(task.main_part, 0.0) for reward in g.rewards) for g in groups]
    low, high = mean_interval(values)
    rewards = [reward for group in groups for reward in group.rewards]
    return TaskScore(
        metric=task.metric,
        value=statistics.fmean(values),
        low=low,
        high=high,
        reward=statistics.fmean(reward.total for reward in rewards),
        n=len(groups),
        num_samples=len(groups[0].rewards),
        status=dict(Counter(reward.status for reward in rewards)),
        legacy=legacy,
    )


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a mean over prompts: Wilson's for zeros and ones, the normal one otherwise."""
    mean, n = statistics.fmean(values), len(values)
    if set(values) <= {0.0, 1.0}:
        interval = binomtest(round(sum(values)), n).proportion_ci(0.95, method="wilson")
        return float(interval.low), float(interval.high)
    half = 1.96 * statistics.stdev(values) / math.sqrt(n) if n > 1 else 1.0
    return max(0.0, mean - half), min(1.0, mean + half)
