"""What a worker does: plain records that cross to it by pickle, without a tensor, and the outcomes that come back."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol

from gpg_vl.records import AnswerIn, ImageView, Reward, Rule, Sample
from gpg_vl.rewards.functions import Call, FunctionResult, call_function, load_function
from gpg_vl.tasks import load_task
from gpg_vl.tasks.base import legacy_scorer, score_completion
from gpg_vl.user_code import own_file

PUBLISHED_TIMEOUT_S = 60.0
"""Seconds that a completion may take under a published scorer. math-verify reads most completions in milliseconds
and the worst known one of 5,000 characters in 0.4 s, but its time is not linear: timeouts are counted and reported."""


_FIELDS = {record: [each.name for each in fields(record)] for record in (Reward, FunctionResult)}
"""Records that a value may be. They are sent as lists of their fields."""

_dumps = json.dumps  # bound here: a user's code may replace that of the module


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a unit: ``Outcome(value)``, or ``Outcome(None, "timeout", "no answer within 5 s")``."""

    value: Any
    status: Literal["ok", "timeout", "error"] = "ok"
    message: str = ""  # what went wrong, with file and line where code of the user's did
    is_mistake: bool = False  # a fault of the code that every completion would meet

    def to_json(self) -> bytes:
        names = _FIELDS.get(type(self.value))
        value = self.value if names is None else [getattr(self.value, name) for name in names]
        return _dumps([value, self.status, self.message, self.is_mistake]).encode()


class Job(Protocol):
    """Units of work on the same code. A unit is what a deadline is for: a completion, or a function's call."""

    @property
    def own_file(self) -> str:
        """The user's file that has the code; "" for the kit's own."""

    @property
    def num_units(self) -> int: ...

    def load(self) -> Callable[[int], Any]:
        """Imports the code and returns what makes the value of a unit of its number."""

    def read_value(self, value: Any) -> Any:
        """A unit's value, back from JSON."""


@dataclass(frozen=True, slots=True)
class TaskJob:
    """The completions of one sample through its task: a unit is one completion, its value a ``Reward``."""

    task: str  # a task's name, or FILE.py:CLASS with an absolute path
    sample: Sample
    views: tuple[ImageView, ...]
    texts: tuple[str, ...]  # with the opening <think> where the prompt ended in one
    weights: Mapping[str, float]  # of the recipe, before the task's own
    scorer: Rule = "strict"
    answer_in: AnswerIn = "tags"

    @property
    def own_file(self) -> str:
        return own_file(self.task)

    @property
    def num_units(self) -> int:
        return len(self.texts)

    def load(self) -> Callable[[int], Reward]:
        task = load_task(self.task)
        for name in task.late_imports:
            importlib.import_module(name)
        rules = (self.weights, self.scorer, self.answer_in)
        return lambda n: score_completion(task, self.sample, self.texts[n], self.views, *rules)

    def read_value(self, value: Any) -> Reward:
        return Reward(*value)


@dataclass(frozen=True, slots=True)
class MetricJob:
    """The completions of one sample through its task's published metric; a unit is a completion, its value a number."""

    task: str  # as in TaskJob, and one that has a published scorer
    sample: Sample
    views: tuple[ImageView, ...]
    texts: tuple[str, ...]

    @property
    def own_file(self) -> str:
        return own_file(self.task)

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

    def read_value(self, value: Any) -> float:
        return float(value)


@dataclass(frozen=True, slots=True)
class FunctionJob:
    """One call of a reward function: a single unit, its value a ``FunctionResult``."""

    function: str  # FILE.py:NAME with an absolute path
    call: Call
    num_units: int = 1

    @property
    def own_file(self) -> str:
        return own_file(self.function)

    def load(self) -> Callable[[int], FunctionResult]:
        function = load_function(self.function)
        return lambda _: call_function(function, self.call)

    def read_value(self, value: Any) -> FunctionResult:
        return FunctionResult(*value)


def read_outcome(job: Job, payload: bytes) -> Outcome:
    """The outcome of a unit of the job; an error if the bytes are not one: then the user's code wrote them."""
    try:
        value, status, message, is_mistake = json.loads(payload)
        return Outcome(job.read_value(value) if status == "ok" else None, status, message, is_mistake)
    except (ValueError, TypeError, RecursionError):
        return Outcome(None, "error", "its process sent an invalid message")


@dataclass(frozen=True, slots=True)
class JobBytes:
    """A job as it passes through: only a worker unpickles it, for it may hold a user's own types."""

    payload: bytes
    own_file: str
    num_units: int
    unit_seconds: float


@dataclass(frozen=True, slots=True)
class Batch:
    jobs: list[JobBytes]
    stops_on_failure: bool
