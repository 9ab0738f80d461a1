"""A task that does what the answer says, and reward functions of all kinds; tests name them by path."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy

from gpg_vl.records import ImageView, Sample
from gpg_vl.tasks.base import LegacyScorer, Task


def overflow() -> float:
    return 1.0 + overflow()


def start_sleeper() -> float:
    """A child process of the verifier, which must not outlive it."""
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)  # left behind by a verifier"]).wait()
    return 1.0


def work(seconds: float) -> float:
    """Keeps a processor busy for so long of its own time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return 1.0


ACTIONS: dict[str, Callable[[], Any]] = {
    "right": lambda: 1.0,
    "wrong": lambda: 0.0,
    "true": lambda: True,
    "numpy bool": lambda: numpy.isclose(1.0, 1.0),
    "numpy number": lambda: numpy.float32(0.5),
    "array": lambda: numpy.array([0.25]),
    "doze": lambda: time.sleep(0.3) or 1.0,  # type: ignore[func-returns-value]
    "sleep": lambda: time.sleep(60),
    "tower": lambda: 9**9**9 % 7,
    "work": lambda: work(0.25),
    "busy": lambda: sum(range(10**12)),
    "regex": lambda: re.match(r"(a|a)*$", "a" * 40 + "b"),
    "child": start_sleeper,
    "memory": lambda: time.sleep(60) if b"x" * (3 * 2**30) else 1.0,
    "recursion": overflow,
    "raise": lambda: {}["no such column"],
    "exit": lambda: sys.exit("enough"),
    "crash": lambda: os._exit(3),
    "nan": lambda: float("nan"),
    "infinite": lambda: 1e999,
    "large": lambda: 1.5,
    "negative": lambda: -0.1,
    "text": lambda: "1",
    "none": lambda: None,
    "print": lambda: print("said by a verifier") or 1.0,  # type: ignore[func-returns-value]
}


class Hostile(Task):
    name = "hostile"

    def ask(self, sample: Sample, views: Sequence[ImageView]) -> str:
        return sample.question

    def read(self, answer: str, sample: Sample, views: Sequence[ImageView]) -> Any:
        return answer

    def score(self, answer: str, sample: Sample, views: Sequence[ImageView]) -> Any:
        if answer == "undeclared":
            return {"correct": 1.0, "style": 1.0}
        if answer == "no main part":
            return {"format": 1.0}
        return 1.0 if answer == "no dict" else {"correct": ACTIONS[answer]()}


def act(text: str, sample: Sample, views: Sequence[ImageView]) -> Any:
    return ACTIONS[re.sub("<.*?>", "", text)]()


class HostileMetric(Hostile):
    """The published metric does what the answer says; its reward is harmless."""

    legacy = LegacyScorer(reward=lambda text, sample, views: {"accuracy": 1.0}, metric=act)


class RaisingCheck(Hostile):
    def check(self, sample: Sample) -> None:
        print("said by a check")
        if sample.answer == "row":
            raise KeyError("colour")
        if sample.answer == "exit":
            sys.exit("enough")


class Signed(Hostile):
    """A part outside of [0, 1], which the task declares."""

    ranges = {"correct": (-1.0, 2.0)}  # noqa: RUF012


def length(completions: list[Any], **kwargs: Any) -> list[float]:
    """As in TRL's documentation: conversations or plain strings."""
    texts = [each if isinstance(each, str) else each[0]["content"] for each in completions]
    return [len(text) / 10 for text in texts]


def columns(prompts: list[Any], completions: list[Any], solution: list[str], colour: list[str], **kwargs: Any) -> Any:
    """Says what it was called with by raising it."""
    names = sorted(kwargs)
    raise LookupError(f"{prompts} | {completions} | {solution} | {colour} | {names}")


def when_right(completions: list[str], answer: list[str], **kwargs: Any) -> list[float | None]:
    return [10.0 if gold in text else None for text, gold in zip(completions, answer, strict=True)]


async def later(completions: list[str], **kwargs: Any) -> list[float]:
    return [0.5] * len(completions)


def too_few(completions: list[str], **kwargs: Any) -> list[float]:
    return [1.0]


def not_finite(completions: list[str], **kwargs: Any) -> list[float]:
    return [float("nan")] * len(completions)


def words(completions: list[str], **kwargs: Any) -> list[str]:
    return ["1.0"] * len(completions)


def constant(value: float, completions: list[str], **kwargs: Any) -> list[float]:
    return [value] * len(completions)


def names(completions: list[str], log_extra: Any, **kwargs: Any) -> list[float]:
    """Logs the names of what it got, and the values of three columns."""
    got = sorted({"completions", "log_extra", *kwargs})
    log_extra("names", [json.dumps(got)] * len(completions))
    values = [[kwargs[name][n] for name in ("colour", "ground_truth", "problem")] for n in range(len(completions))]
    log_extra("values", [json.dumps(each) for each in values])
    return [1.0] * len(completions)


def logs(completions: list[str], trainer_state: Any, log_metric: Any, log_extra: Any, **kwargs: Any) -> Any:
    log_metric("mean", 1)
    log_metric("mean", numpy.float32(2))
    log_metric("mean", float("nan"))
    log_metric("step", trainer_state.global_step)
    log_extra("read", ["a", None])
    log_extra("size", numpy.array([1, 2]))
    return [trainer_state.epoch / trainer_state.num_train_epochs] * len(completions)


def logs_too_few(completions: list[str], log_extra: Any, **kwargs: Any) -> list[float]:
    log_extra("read", ["a"])
    return [1.0] * len(completions)


def sizes(completions: list[str], images: list[list[Any]], **kwargs: Any) -> list[float]:
    """The pixels of all pictures of a row."""
    return [float(sum(image.width * image.height for image in of_row)) for of_row in images]


def kinds(completions: list[str], **kwargs: Any) -> list[float]:
    """How many of a row's images are paths or bytes."""
    return [float(sum(isinstance(image, str | bytes) for image in of_row)) for of_row in kwargs["images"]]


def modest(completions: list[str], answer: list[str]) -> list[float]:
    return [0.75 if gold in text else 0.0 for text, gold in zip(completions, answer, strict=True)]


def numpy_bools(completions: list[str], **kwargs: Any) -> Any:
    return [numpy.isclose(1.0, 1.0) for _ in completions]


def numpy_array(completions: list[str], **kwargs: Any) -> Any:
    return numpy.ones((len(completions), 1), dtype=numpy.float16)


def mixed(completions: list[str], **kwargs: Any) -> Any:
    return (value for value in (numpy.int64(1), None))


def too_many(completions: list[str], **kwargs: Any) -> list[float]:
    return [1.0] * (len(completions) + 1)


def a_dict(completions: list[str], **kwargs: Any) -> dict[int, float]:
    return dict.fromkeys(range(len(completions)), 1.0)


def a_text(completions: list[str], **kwargs: Any) -> str:
    return "1" * len(completions)


def nothing(completions: list[str], **kwargs: Any) -> None:
    pass


def a_number(completions: list[str], **kwargs: Any) -> float:
    return 1.0


def zero_dimensional(completions: list[str], **kwargs: Any) -> Any:
    return numpy.array(1.0)


def needs(completions: list[str], no_such_column: Any, **kwargs: Any) -> list[float]:
    return [1.0] * len(completions)


def raises(completions: list[str], **kwargs: Any) -> list[float]:
    raise RuntimeError("boom")


half = functools.partial(constant, 0.5)


class _Constant:
    def __call__(self, completions: list[str], **kwargs: Any) -> list[float]:
        return constant(0.25, completions)


quarter = _Constant()


def hang(completions: list[str], **kwargs: Any) -> list[float]:
    time.sleep(60)
    return []
