"""Reward functions in the form that TRL calls: ``def f(prompts, completions, **columns) -> list[float]``.

A function is named by path (``my_rewards.py:f``) and becomes a reward part of that name. It is called once per group,
by keyword, with one entry per completion in every list. None in its answer means: not applicable to this completion.
Source of the form: TRL, ``GRPOTrainer``, "Using a custom reward function".
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, cast

from gpg_vl.own_code import run_file
from gpg_vl.records import Sample

Conversation = list[dict[str, str]]
RewardFunction = Callable[..., Any]


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
        raise ValueError(f"reward function {spec!r} has no place; write it as path/to/file.py:function")
    function = vars(run_file(Path(path).resolve())).get(name)
    if not callable(function) or isinstance(function, type):
        raise ValueError(f"{path} has no function {name!r}; name it as {path}:function")
    return cast(RewardFunction, function)


def sample_columns(sample: Sample) -> dict[str, Any]:
    """The columns of a row: the kit's own and, before them, whatever else it holds; ``solution`` is the answer too."""
    own = {"id": sample.id, "task": sample.task, "images": sample.images, "question": sample.question}
    answer = {"answer": sample.answer, "solution": sample.answer}
    return {**own, **answer, **sample.meta}


def call_function(
    function: RewardFunction,
    prompt: str | Conversation,
    completions: Sequence[str],
    completion_ids: Sequence[Sequence[int]],
    columns: Mapping[str, Any],
) -> list[float | None]:
    """One reward or None per completion; a chat prompt makes the completions messages too.

    Raises:
        TypeError, ValueError: the answer has another length, or holds something that is no finite number
    """
    num = len(completions)
    as_messages = [[{"role": "assistant", "content": text}] for text in completions]
    values = function(
        prompts=[prompt] * num,
        completions=list(completions) if isinstance(prompt, str) else as_messages,
        completion_ids=[list(ids) for ids in completion_ids],
        **{name: [value] * num for name, value in columns.items() if name not in _OWN_ARGUMENTS},
    )
    if inspect.iscoroutine(values):
        values = asyncio.run(values)
    rewards = [None if value is None else _finite(value) for value in values]
    if len(rewards) != num:
        raise ValueError(f"{len(rewards)} rewards for {num} completions; return one per completion")
    return rewards


_OWN_ARGUMENTS = ("prompts", "completions", "completion_ids", "prompt", "completion")


def _finite(value: Any) -> float:
    if not isinstance(value, Real):
        raise TypeError(f"a reward is {type(value).__name__}; make it a number or None")
    if not math.isfinite(value):
        raise ValueError(f"a reward is {value}; make it finite, or None where it does not apply")
    return float(value)
