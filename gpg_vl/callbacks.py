"""What a caller from Python is told while a run goes on (docs/python.md): on the first rank, between two steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpg_vl.evaluation.scores import TaskScore
from gpg_vl.processes.interrupts import Interrupted
from gpg_vl.processes.ranks import run_on_main


@dataclass(frozen=True, slots=True)
class Callbacks:
    """What one of them raises ends the run on all ranks, which save their last step first."""

    on_step: Callable[[int, dict[str, Any]], object] | None = None  # the step, and its numbers as in metrics.jsonl
    on_validation: Callable[[int, dict[str, TaskScore]], object] | None = None  # the step, and the scores by task
    on_save: Callable[[int, Path], object] | None = None  # the step, and the folder of its checkpoint

    def after_step(self, step: int, metrics: Mapping[str, Any]) -> None:
        _call(self.on_step, step, dict(metrics))

    def after_validation(self, step: int, scores: Mapping[str, TaskScore]) -> None:
        _call(self.on_validation, step, dict(scores))

    def after_save(self, step: int, folder: Path) -> None:
        """A run that ends early saves once more, and calls nothing."""
        _call(self.on_save, step, folder)


class CallbackError(Exception):
    """A callback raised. So an ``OSError`` of the caller's own is not taken for a disk that is full."""

    def __init__(self, raised: BaseException):
        super().__init__(str(raised))
        self.raised = raised


def _call(callback: Callable[..., object] | None, *values: Any) -> None:
    def call() -> None:  # what the callback returns stays here
        try:
            if callback is not None:
                callback(*values)
        except Interrupted:
            raise
        except BaseException as error:
            raise CallbackError(error) from error

    if callback is not None:
        run_on_main(call)


SILENT = Callbacks()
