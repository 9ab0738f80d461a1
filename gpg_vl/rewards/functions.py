"""Reward functions in the form that TRL calls: ``def f(prompts, completions, **columns) -> list[float]``.

A function is named by path (``my_rewards.py:f``) and becomes a reward part of that name. It is called once per group,
by keyword, with one entry per completion in every list. None in its answer means: not applicable to this completion.
Source of the form: TRL 1.16, ``GRPOTrainer``, "Using a custom reward function" and ``_calculate_rewards``.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from gpg_vl.data.images import open_image
from gpg_vl.records import Sample
from gpg_vl.user_code import CodeMistake, as_number, run_file

ChatMessages = list[dict[str, str]]
RewardFunction = Callable[..., Any]

MAX_EXTRA_CHARS = 1000
"""Longest text of a logged value that is neither a number nor a text."""

_BY_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_OWN_ARGUMENTS = (
    "prompts", "completions", "completion_ids", "prompt", "completion", "trainer_state", "log_metric", "log_extra"
)  # fmt: skip
"""Names that no column may take: those of TRL."""


@dataclass(frozen=True, slots=True)
class TrainerState:
    """What functions can read from TRL's ``trainer_state``; in a plain evaluation every number is 0.

    The names are those of ``transformers.TrainerState``. A run counts steps and repeats its data set without
    counting, so all of it is one epoch. The kit does not track the fields that stay at their default.
    """

    global_step: int = 0  # steps that are finished
    max_steps: int = 0
    logging_steps: int = 1  # every step is logged
    eval_steps: int = 0
    save_steps: int = 0
    train_batch_size: int | None = None
    num_input_tokens_seen: int = 0
    total_flos: float = 0.0
    best_metric: float | None = None
    best_global_step: int | None = None
    best_model_checkpoint: str | None = None
    is_local_process_zero: bool = True  # each process calls functions for its own completions
    is_world_process_zero: bool = True
    is_hyper_param_search: bool = False
    trial_name: str | None = None

    @property
    def epoch(self) -> float:
        """The part of the run that is finished, in [0, 1]."""
        return self.global_step / self.max_steps if self.max_steps else 0.0

    @property
    def num_train_epochs(self) -> int:
        """1 in training."""
        return int(self.max_steps > 0)

    @property
    def log_history(self) -> list[dict[str, float]]:
        """Empty: ``metrics.jsonl`` has the run's numbers."""
        return []


@dataclass(frozen=True, slots=True)
class Call:
    """One group, as a function sees it."""

    prompt: str | ChatMessages
    completions: tuple[str, ...]
    completion_ids: tuple[tuple[int, ...], ...]
    columns: Mapping[str, Any]  # of the row, each once
    state: TrainerState = TrainerState()


@dataclass(frozen=True, slots=True)
class FunctionResult:
    """The result of a call: a reward or None per completion, and what the function logged."""

    rewards: list[float | None]
    metrics: dict[str, float] = field(default_factory=dict)  # means of what log_metric got
    extras: dict[str, list[Any]] = field(default_factory=dict)  # by name, a value per completion


def function_name(spec: str) -> str:
    """The name of the reward part: that of the function."""
    return spec.rpartition(":")[2]


def load_function(spec: str) -> RewardFunction:
    """The function of ``path/to/file.py:name``.

    Raises:
        ValueError: no such file or function, or the file does not import
    """
    path, _, name = spec.rpartition(":")
    if not path.endswith(".py"):
        raise ValueError(f"reward function {spec!r} names no file; write it as path/to/file.py:function")
    function = vars(run_file(Path(path).resolve())).get(name)
    if not callable(function) or isinstance(function, type):
        raise CodeMistake(f"{path} has no function {name!r}; name it as {path}:function")
    return cast(RewardFunction, function)


def sample_columns(sample: Sample) -> dict[str, Any]:
    """The columns of a row: the kit's own, ``solution`` for the answer, and the row's own, which override them."""
    shown = {"images": sample.images, "videos": sample.videos}
    own = {"id": sample.id, "task": sample.task, **shown, "question": sample.question}
    answer = {"answer": sample.answer, "solution": sample.answer}
    return {**own, **answer, **sample.meta, **sample.own_columns}


def call_function(function: RewardFunction, call: Call) -> FunctionResult:
    """Returns one reward, or None, per completion. After a chat prompt the function gets completions as messages.

    Raises:
        CodeMistake: the function has a parameter that does not exist, or returns anything but finite numbers and None
    """
    log = _Log(function, len(call.completions))
    values = function(**_chosen(function, call, _offered(call, log)))
    if inspect.isawaitable(values):
        values = asyncio.run(_await(values))
    return FunctionResult(_rewards(function, values, log.num), log.metrics(), log.extras)


def _offered(call: Call, log: _Log) -> dict[str, Any]:
    num = len(call.completions)
    as_messages = [[{"role": "assistant", "content": text}] for text in call.completions]
    return {
        **{name: [value] * num for name, value in call.columns.items() if name not in _OWN_ARGUMENTS},
        "prompts": [call.prompt] * num,
        "completions": list(call.completions) if isinstance(call.prompt, str) else as_messages,
        "completion_ids": [list(ids) for ids in call.completion_ids],
        "trainer_state": call.state,
        "log_metric": log.log_metric,
        "log_extra": log.log_extra,
    }


def _chosen(function: RewardFunction, call: Call, offered: dict[str, Any]) -> dict[str, Any]:
    """The arguments that the function takes; all of them for ``**kwargs``. Only a parameter ``images`` opens images."""
    parameters = inspect.signature(function).parameters
    wanted = [name for name, each in parameters.items() if each.kind in _BY_KEYWORD]
    missing = [
        name
        for name, each in parameters.items()
        if each.default is each.empty
        and each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
        and (name not in offered or each.kind == each.POSITIONAL_ONLY)
    ]
    if missing:
        names = ", ".join(sorted(offered))
        more = f"{names[:160]}..." if len(names) > 160 else names
        raise CodeMistake(f"a reward function takes {missing[0]!r}; available: {more}", function)
    if "images" in wanted and "images" in call.columns:
        offered["images"] = [[open_image(image, shrink=True) for image in call.columns["images"]]] * len(
            call.completions
        )
    takes_all = any(each.kind == each.VAR_KEYWORD for each in parameters.values())
    return offered if takes_all else {name: offered[name] for name in wanted if name in offered}


async def _await(values: Any) -> Any:
    return await values


def _rewards(function: RewardFunction, values: Any, num: int) -> list[float | None]:
    is_scalar = not isinstance(values, Iterable) or getattr(values, "ndim", 1) == 0
    if is_scalar or isinstance(values, Mapping | Set | str | bytes):
        kind = type(values).__name__
        raise CodeMistake(f"a reward function returned {kind}; return a list with a number per completion", function)
    rewards = [None if value is None else _finite(function, value) for value in values]
    if len(rewards) != num:
        raise CodeMistake(f"{len(rewards)} rewards for {num} completions; return one per completion", function)
    return rewards


def _finite(function: RewardFunction, value: Any) -> float:
    number = as_number(value)
    if number is None:
        raise CodeMistake(f"a reward is {type(value).__name__}; make it a number or None", function)
    if not math.isfinite(number):
        raise CodeMistake(f"a reward is {number}; make it finite, or None where it does not apply", function)
    return number


class _Log:
    """The two functions that TRL passes for logging, and what they got."""

    def __init__(self, function: RewardFunction, num: int):
        self._function = function
        self._values: dict[str, list[float]] = {}
        self.num = num
        self.extras: dict[str, list[Any]] = {}

    def log_metric(self, name: str, value: Any) -> None:
        """A number of the group. One that is not finite is left out: JSON has none."""
        number = as_number(value)
        if number is None:
            raise CodeMistake(f"log_metric({name!r}) got {type(value).__name__}; give it a number", self._function)
        if math.isfinite(number):
            self._values.setdefault(str(name), []).append(number)

    def log_extra(self, column: str, values: Sequence[Any]) -> None:
        """A value per completion."""
        plain = [_plain(value) for value in values]
        if len(plain) != self.num:
            text = f"log_extra({column!r}) got {len(plain)} values for {self.num} completions"
            raise CodeMistake(text, self._function)
        self.extras[str(column)] = plain

    def metrics(self) -> dict[str, float]:
        return {name: sum(values) / len(values) for name, values in self._values.items()}


def _plain(value: Any) -> str | float | None:
    if value is None or isinstance(value, str):
        return value
    number = as_number(value)
    return number if number is not None and math.isfinite(number) else str(value)[:MAX_EXTRA_CHARS]
