"""``python faulty_rank.py FAULT train RECIPE ...``: the command line, with a fault in rank 1 in its second step."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from gpg_vl import cli, train, update
from gpg_vl.collect import Collector
from gpg_vl.scoring import Scorer


def die() -> None:
    print(f"killed at {time.time()}", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def run_out_of_memory() -> None:
    raise torch.OutOfMemoryError("injected")


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
    original = train.accumulate_gradient
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

    train.accumulate_gradient = accumulate


def use_plain_descent() -> None:
    """The weights' change is then the clipped gradient itself; AdamW divides it by its own size, rounding included."""
    train.build_optimizer = lambda adapter, config: torch.optim.SGD(adapter.model.parameters(), lr=1.0)


FAULTS: dict[str, Callable[[], None]] = {
    "none": lambda: None,
    "kill in rollout": lambda: in_call(2, Collector, "_roll_out", die),
    "kill in scoring": lambda: in_call(2, Scorer, "score", die),
    "kill in update": lambda: in_call(2, update.PolicyForward, "forward", die),
    "kill in save": lambda: in_call(1, train._Trainer, "_save", die),
    "error in rollout": lambda: in_call(2, Collector, "_roll_out", lambda: 1 / 0),
    "nan once": lambda: poison(2, 2),
    "nan for ever": lambda: poison(2, 99),
    "out of memory": lambda: in_call(2, update.PolicyForward, "forward", run_out_of_memory),
}


def main() -> int:
    if sys.argv[1] == "plain descent":  # no fault: for all ranks
        use_plain_descent()
    elif os.environ.get("RANK", "0") == os.environ.get("FAULTY_RANK", "1"):
        FAULTS[sys.argv[1]]()
    return cli.main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
