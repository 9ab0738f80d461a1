"""What a worker does: plain records that cross to it by pickle, without a tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from gpg_vl.records import AnswerIn, ImageView, Sample
from gpg_vl.rewards.functions import Conversation, call_function, load_function
from gpg_vl.tasks import load_task
from gpg_vl.tasks.base import legacy_scorer, score_completion

PUBLISHED_TIMEOUT_S = 60.0
"""Seconds that a completion may take under a published scorer. math-verify reads what a model writes in milliseconds,
and the worst known of 5,000 characters in 0.4 s, but it is not linear: what takes longer is counted and said."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a unit: ``Outcome(value)``, or ``Outcome(None, "timeout", "no answer within 5 s")``."""

    value: Any
    status: Literal["ok", "timeout", "error"] = "ok"
    message: str = ""


class Job(Protocol):
    """Units of work on the same user code. A unit is what a deadline is for: a completion, or a function's call."""

    @property
    def code(self) -> str:
        """What has to be loaded; the same for jobs that share it."""

    @property
    def num_units(self) -> int: ...

    def load(self) -> Callable[[int], Any]:
        """Imports the code and returns what makes the value of a unit of its number."""


@dataclass(frozen=True, slots=True)
class TaskJob:
    """The completions of one sample through its task: a unit is one completion, its value a ``Reward``."""

    task: str  # a task's name, or FILE.py:CLASS with an absolute path
    sample: Sample
    views: tuple[ImageView, ...]
    texts: tuple[str, ...]  # with the opening <think> where the prompt ended in one
    weights: Mapping[str, float]  # of the recipe, before the task's own
    scorer: Literal["strict", "legacy"] = "strict"
    answer_in: AnswerIn = "tags"

    @property
    def code(self) -> str:
        return self.task

    @property
    def num_units(self) -> int:
        return len(self.texts)

    def load(self) -> Callable[[int], Any]:
        task = load_task(self.task)
        rules = (self.weights, self.scorer, self.answer_in)
        return lambda n: score_completion(task, self.sample, self.texts[n], self.views, *rules)


@dataclass(frozen=True, slots=True)
class MetricJob:
    """The completions of one sample through its task's published metric; a unit is a completion, its value a number."""

    task: str  # as in TaskJob, and one that has a published scorer
    sample: Sample
    views: tuple[ImageView, ...]
    texts: tuple[str, ...]

    @property
    def code(self) -> str:
        return self.task

    @property
    def num_units(self) -> int:
        return len(self.texts)

    def load(self) -> Callable[[int], float]:
        metric = legacy_scorer(load_task(self.task)).metric

        def measure(n: int) -> float:
            value = float(metric(self.texts[n], self.sample, self.views))
            if not math.isfinite(value):
                raise ValueError(f"the published metric of {self.task} is {value}; it must be finite")
            return value

        return measure


@dataclass(frozen=True, slots=True)
class FunctionJob:
    """One call of a reward function: a single unit, its value one number or None per completion."""

    function: str  # FILE.py:NAME with an absolute path
    prompt: str | Conversation
    completions: tuple[str, ...]
    completion_ids: tuple[tuple[int, ...], ...]
    columns: Mapping[str, Any]  # of the row, each once
    num_units: int = 1

    @property
    def code(self) -> str:
        return self.function

    def load(self) -> Callable[[int], Any]:
        function = load_function(self.function)
        return lambda _: call_function(function, self.prompt, self.completions, self.completion_ids, self.columns)


@dataclass(frozen=True, slots=True)
class JobBytes:
    """A job as it passes through: only a worker unpickles it, for it may hold a user's own types."""

    payload: bytes
    num_units: int
    unit_seconds: float


@dataclass(frozen=True, slots=True)
class Batch:
    jobs: list[JobBytes]
    stops_on_failure: bool
