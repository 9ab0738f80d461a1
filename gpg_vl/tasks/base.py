"""The interface of a task: how to ask, how to read the answer, how to score it, how to write the gold answer.

A task of your own is a subclass in a file of your own, used by path (``my_task.py:MyTask``), with no edit in the kit.
Training and evaluation call the same ``score_completion``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from gpg_vl.records import AnswerIn, ImageView, Reward, Rule, Sample, Status
from gpg_vl.user_code import CodeMistake, as_number
from gpg_vl.verifiers.answers import read_completion, write_answer

FORMAT_REQUEST = (
    "Think about it first, between <think> and </think>, then give the final answer between <answer> and </answer>."
)
BOXED_REQUEST = "Think about it first, between <think> and </think>, then give the final answer in \\boxed{}."
"""Replaces ``FORMAT_REQUEST`` if the answer is asked for in a box."""


@dataclass(frozen=True, slots=True)
class LegacyScorer:
    """How the published code scores a completion, defects included; never a default (docs/rewards.md).

    Both functions get the whole completion, the sample and the image views.
    """

    reward: Callable[[str, Sample, Sequence[ImageView]], dict[str, float]]
    """The parts that the published training adds up; not every one is in [0, 1]."""
    metric: Callable[[str, Sample, Sequence[ImageView]], float]
    """What the published evaluation gives this completion, in [0, 1]; the published figure is the mean."""
    weights: Mapping[str, float] = field(default_factory=lambda: {"accuracy": 1.0, "format": 1.0})


class Task(ABC):
    """A task asks about one sample at a time and is pure: the same input always earns the same reward.

    Subclasses set ``name`` and define ``ask``, ``read`` and ``score``, and ``gold`` if the gold answer is not written
    as it stands in the row.
    """

    name: ClassVar[str] = ""
    """What messages call the task."""
    metric: ClassVar[str] = "accuracy"
    """Name of the number that evaluation reports: the mean of the part ``main_part``."""
    main_part: ClassVar[str] = "correct"
    weights: ClassVar[Mapping[str, float]] = {"correct": 1.0, "format": 0.2}
    """Weight of each reward part in the total; a recipe's ``rewards.weights`` overrides it."""
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {}
    """Lowest and highest value of a part that is not in [0, 1]."""
    late_imports: ClassVar[tuple[str, ...]] = ()
    """Modules that scoring imports late: a scoring process imports them before the clock of a completion starts."""
    legacy: ClassVar[LegacyScorer | None] = None
    """The published scorer, where the task has one."""

    @abstractmethod
    def ask(self, sample: Sample, views: Sequence[ImageView]) -> str:
        """The text of the user's turn, without the image."""

    @abstractmethod
    def read(self, answer: str, sample: Sample, views: Sequence[ImageView]) -> Any | None:
        """The content of the answer tag, or of the box, as a value; None if it cannot be read.

        Gets text that a model wrote: must return for any text, in time linear in its length.
        """

    @abstractmethod
    def score(self, answer: Any, sample: Sample, views: Sequence[ImageView]) -> dict[str, float]:
        """The reward parts, without ``format``, of an answer that ``read`` understood: numbers within ``ranges``."""

    def gold(self, sample: Sample, views: Sequence[ImageView]) -> str:
        """The content of the answer tag that earns full marks, in the frame that the model uses."""
        return sample.answer

    def check(self, sample: Sample) -> None:
        """Raises ``ValueError`` if this task cannot read the row's gold answer; needs no image."""
        if not sample.answer.strip():
            raise ValueError("the answer is empty")


def ask_for_answer(task: Task, sample: Sample, views: Sequence[ImageView], answer_in: AnswerIn = "tags") -> str:
    """The text of the user's turn, with the request for the place where the answer is looked for.

    Raises:
        CodeMistake: the task returned something else
    """
    request: Any = task.ask(sample, views)
    if not isinstance(request, str):
        text = f"ask of task {task.name} returned {type(request).__name__}; return the text of the user's turn"
        raise CodeMistake(text, task.ask)
    return request if answer_in == "tags" else request.replace(FORMAT_REQUEST, BOXED_REQUEST)


def gold_completion(task: Task, sample: Sample, views: Sequence[ImageView], answer_in: AnswerIn = "tags") -> str:
    """The completion that supervised training imitates: the row's ``meta.reasoning``, if any, and the gold answer.

    Raises:
        ValueError: the answer cannot stand where ``answer_in`` says
    """
    return write_answer(str(sample.meta.get("reasoning") or ""), task.gold(sample, views), answer_in)


def score_completion(
    task: Task,
    sample: Sample,
    text: str,
    views: Sequence[ImageView],
    weights: Mapping[str, float] | None = None,
    scorer: Rule = "strict",
    answer_in: AnswerIn = "tags",
) -> Reward:
    """Scores one completion, the opening ``<think>`` included where the prompt opened it.

    Under ``strict`` a completion without exactly one readable answer earns nothing but its format part: every other
    part that the task weighs is 0, and its status is ``unparsable``. The published scorers know no such status.

    Raises:
        CodeMistake: the task returned no main part, or a part that is not a number, is out of its range, or is missing
            from its ``weights``
        ValueError: the task has no published scorer
    """
    if scorer == "legacy":
        return _weigh(
            task,
            legacy_scorer(task).reward(text, sample, views),
            {**task_weights(task, scorer), **(weights or {})},
            "ok",
        )
    found, is_formatted = read_completion(text, answer_in)
    answer = None if found is None else task.read(found, sample, views)
    if answer is None:
        parts = dict.fromkeys((name for name in task.weights if name != "format"), 0.0)
    else:
        parts = _checked_parts(task, task.score(answer, sample, views))
    parts["format"] = float(is_formatted)
    of_task = task_weights(task, scorer)
    return _weigh(task, parts, {**of_task, **weights} if weights else of_task, "unparsable" if answer is None else "ok")


def task_weights(task: Task, scorer: Rule) -> Mapping[str, float]:
    """The weights of a task's reward parts under a scorer, before a recipe's.

    Raises:
        ValueError: the task has no published scorer
    """
    if scorer == "legacy":
        return legacy_scorer(task).weights
    return task.weights if "format" in task.weights else {"format": 0.0, **task.weights}


def main_part(task: Task, parts: Iterable[str]) -> str:
    """Which of a completion's parts says how right the answer is; the published scorers have other parts."""
    others = [name for name in parts if name != "format"]
    return task.main_part if task.main_part in others else next(iter(others), "")


def legacy_scorer(task: Task) -> LegacyScorer:
    """The task's published scorer.

    Raises:
        ValueError: it has none
    """
    if task.legacy is None:
        raise ValueError(f"task {task.name} has no published scorer; set the scorer to strict")
    return task.legacy


def _weigh(task: Task, parts: dict[str, float], weights: Mapping[str, float], status: Status) -> Reward:
    try:
        total = sum([weights[name] * value for name, value in parts.items()])
    except KeyError:
        total = math.nan
    if not math.isfinite(total):
        text = f"task {task.name} gave {parts}; each part must be finite and named in the task's weights"
        raise CodeMistake(text, task.score)
    main = main_part(task, parts)
    return Reward(total, parts, status, main=parts[main] if weights.get(main) else None)


def _checked_parts(task: Task, parts: Any) -> dict[str, float]:
    if type(parts) is not dict and not isinstance(parts, Mapping):
        example = {task.main_part: 1.0}
        text = f"score of task {task.name} returned {type(parts).__name__}; return a dict, as {example}"
        raise CodeMistake(text, task.score)
    if task.main_part not in parts:
        text = f"score of task {task.name} returned {list(parts)} without its main part {task.main_part!r}"
        raise CodeMistake(text, task.score)
    return {name: _checked(task, name, value) for name, value in parts.items()}


def _checked(task: Task, name: str, value: Any) -> float:
    """A part as a plain number within its range; NaN is within no range."""
    number = value if type(value) is float else as_number(value)
    if number is None:
        text = f"part {name!r} of task {task.name} is {type(value).__name__}; make it a number"
        raise CodeMistake(text, task.score)
    low, high = task.ranges.get(name, (0.0, 1.0))
    if not low <= number <= high:
        text = f"part {name!r} of task {task.name} is {number}, not in [{low:g}, {high:g}]; see Task.ranges"
        raise CodeMistake(text, task.score)
    return number
