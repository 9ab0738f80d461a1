"""The draws of a run's steps, in turn or one step ahead (``rollout.ahead``), and the position from which a run goes on.

Ahead, servers sample the first draw of the next step while this one is followed. A checkpoint then holds the position
of before that draw: a run that goes on from it draws the same prompts, and samples them from its present weights. So
does a run whose servers did not answer, or one that has meanwhile ended a task.
"""

from __future__ import annotations

from typing import Any

from gpg_vl.collect import Collector
from gpg_vl.config import Recipe
from gpg_vl.data.stream import SampleStream
from gpg_vl.records import CollectedGroups
from gpg_vl.run.progress import Progress
from gpg_vl.run.random_state import read_random_state, restore_random_state
from gpg_vl.run.record import Record

Position = tuple[dict[str, Any], dict[str, Any]]
"""State of the sample stream, and of this process's random generators."""


class Draws:
    """All ranks call it together."""

    def __init__(self, recipe: Recipe, collector: Collector, stream: SampleStream, progress: Progress, record: Record):
        self._rollout = recipe.rollout
        self._collector = collector
        self._stream = stream
        self._progress = progress
        self._record = record
        self._before: Position | None = None  # the draw that has begun
        self._begun_without: tuple[str, ...] = ()

    def collect(self, step: int) -> CollectedGroups:
        """The groups of the next step."""
        if self._before is not None and not self._can_use_begun():
            self._collector.drop_begun()
            self._stream.restore(self._before[0])
            restore_random_state(self._before[1])
        self._before = None
        return self._collector.collect(step, self._without_tasks(), self._keeps_log_probs(step))

    def begin(self, step: int) -> None:
        """Begins the draw of a step, before the one under way is followed; nothing where the recipe has it in turn."""
        if not self._rollout.ahead or step > self._progress.last_step:
            return
        self._before, self._begun_without = self.position, self._without_tasks()
        self._collector.begin(step, self._begun_without, self._keeps_log_probs(step))

    @property
    def position(self) -> Position:
        """From which the next step draws."""
        return self._before or (self._stream.state(), read_random_state())

    def _can_use_begun(self) -> bool:
        return self._begun_without == self._without_tasks() and self._collector.is_answered()

    def _without_tasks(self) -> tuple[str, ...]:
        return () if self._progress.in_cooldown else self._progress.tasks_done

    def _keeps_log_probs(self, step: int) -> bool:
        is_truncated = (
            self._rollout.top_p < 1 or self._rollout.top_k > 0
        )  # the update's are of another distribution then
        return not is_truncated or self._record.is_due(step)
