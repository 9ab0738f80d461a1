"""``python faulty_rank.py FAULT train RECIPE ...``: the command line, with a fault in one rank (FAULTY_RANK, else 1).

It comes in the second step; in a save, in the first one.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from gpg_vl import cli
from gpg_vl.collect import Collector
from gpg_vl.rewards.scorer import Scorer
from gpg_vl.run import checkpoint, run_log
from gpg_vl.update import learner, policy


def say_when() -> None:
    sys.stdout.write(f"struck at {time.time()}\n")  # in one piece: other ranks write too
    sys.stdout.flush()


def die() -> None:
    say_when()
    os.kill(os.getpid(), signal.SIGKILL)


def run_out_of_memory() -> None:
    say_when()
    raise torch.OutOfMemoryError("injected")


def run_out_of_disk() -> None:
    raise OSError(errno.ENOSPC, "injected: no space left")


def in_call(number: int, owner: Any, name: str, fault: Callable[[], None]) -> None:
    """Replaces ``owner.name``: its call of that number, counted from 1, ends in the fault."""
    original = getattr(owner, name)
    calls = 0

    def call(*words: Any, **names: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            fault()
        return original(*words, **names)

    setattr(owner, name, call)


def poison(first: int, last: int) -> None:
    """Makes the gradient of the steps ``first`` to ``last`` not a number."""
    original = learner.accumulate_gradient
    steps = 0

    def accumulate(layout: Any, *words: Any) -> Any:
        nonlocal steps
        steps += 1
        if first <= steps <= last:
            backward = layout.backward
            layout.backward = lambda loss, is_last: backward(loss * torch.nan, is_last)
            try:
                return original(layout, *words)
            finally:
                del layout.backward
        return original(layout, *words)

    learner.accumulate_gradient = accumulate


def use_plain_descent() -> None:
    """The weights' change is then the clipped gradient itself; AdamW divides it by its own size, rounding included."""
    original = learner.build_optimizer

    def build(*given: Any) -> torch.optim.Optimizer:
        groups = original(*given).param_groups
        return torch.optim.SGD([{key: group[key] for key in ("params", "lr", "lr_scale")} for group in groups])

    learner.build_optimizer = build


PHASES: dict[str, tuple[int, Any, str]] = {
    "rollout": (2, Collector, "_roll_out"),
    "scoring": (2, Scorer, "score"),
    "update": (2, policy.PolicyForward, "forward"),
    "save": (1, checkpoint, "save_model"),  # which the first rank alone calls, as it does the next
    "log": (2, run_log, "replace_file"),  # the completions of the second step
}
ACTIONS: dict[str, Callable[[], Any]] = {
    "kill": die,
    "error": lambda: 1 / 0,
    "SIGTERM": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "SIGINT": lambda: os.kill(os.getpid(), signal.SIGINT),
    "SIGTERM to all": lambda: os.kill(os.getppid(), signal.SIGTERM),  # the launcher's, which passes it on
    "full disk": run_out_of_disk,
    "out of memory": run_out_of_memory,
}
FAULTS: dict[str, Callable[[], None]] = {
    "none": lambda: None,
    "nan once": lambda: poison(2, 2),
    "nan for ever": lambda: poison(2, 99),
    **{
        f"{action} in {phase}": partial(in_call, *place, fault)
        for phase, place in PHASES.items()
        for action, fault in ACTIONS.items()
    },
}


def main() -> int:
    if sys.argv[1] == "plain descent":  # no fault: for all ranks
        use_plain_descent()
    elif os.environ.get("RANK", "0") == os.environ.get("FAULTY_RANK", "1"):
        FAULTS[sys.argv[1]]()
    return cli.main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
