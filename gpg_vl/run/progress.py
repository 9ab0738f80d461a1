"""The progress of a run, and what follows from it: what is due, when the run ends, the learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpg_vl.config import RunConfig, UpdateConfig
from gpg_vl.run.checkpoint import TrainingState
from gpg_vl.update.optimizer import learning_rate


@dataclass(slots=True)
class Progress:
    """The current progress of a run.

    A checkpoint stores it as ``TrainingState``, whose fields are a file format that later versions read. Recipe and
    random states (one per rank) have their own files; ``saved_step`` is the checkpoint's own step.
    """

    run: RunConfig
    data: list[str]  # a digest of the rows of each training source
    pins: dict[str, str] = field(default_factory=dict)  # digests of the user's code and of an adapter's model
    step: int = 0  # finished optimizer steps
    saved_step: int = 0  # of the last checkpoint
    stream: dict[str, Any] = field(default_factory=dict)
    validated_step: int = 0
    validation: dict[str, float] = field(default_factory=dict)  # task -> its score at validated_step
    tasks_done: tuple[str, ...] = ()
    all_done_step: int | None = None  # the step at which every task had reached its run.stop_when score
    shrunk_rows: int = 0  # training rows whose images are scaled down to fit
    silent_steps: int = 0
    skipped_steps: int = 0  # steps whose gradient was not finite
    skips_in_a_row: int = 0
    saved_rollouts: int = 0  # that rollout.refresh found no need for
    random_state: dict[str, Any] = field(default_factory=dict)  # at the end of the step and its validation

    @classmethod
    def after(cls, state: TrainingState, run: RunConfig) -> Progress:
        """
        Raises:
            ValueError: the state counts what this version does not
        """
        counters: dict[str, Any] = {**state.counters}
        if unknown := sorted(counters.keys() - cls(run, []).state().counters.keys()):
            raise ValueError(f"the checkpoint counts {unknown[0]!r}; resume with the version of the kit that wrote it")
        return cls(
            run,
            state.data,
            pins=state.pins,
            step=state.step,
            saved_step=state.step,
            stream=state.stream,
            validated_step=state.validated_step,
            validation=state.validation,
            tasks_done=tuple(state.tasks_done),
            all_done_step=state.all_done_step,
            **counters,
        )

    def state(self) -> TrainingState:
        return TrainingState(
            step=self.step,
            stream=self.stream,
            validated_step=self.validated_step,
            validation=self.validation if self.validated_step == self.step else {},
            tasks_done=list(self.tasks_done),
            all_done_step=self.all_done_step,
            counters={
                "shrunk_rows": self.shrunk_rows,
                "silent_steps": self.silent_steps,
                "skipped_steps": self.skipped_steps,
                "skips_in_a_row": self.skips_in_a_row,
                "saved_rollouts": self.saved_rollouts,
            },
            data=self.data,
            pins=self.pins,
        )

    @property
    def last_step(self) -> int:
        steps = self.run.steps
        return steps if self.all_done_step is None else min(steps, self.all_done_step + self.run.cooldown_steps)

    @property
    def is_over(self) -> bool:
        return self.step >= self.last_step

    @property
    def cooldown_start(self) -> int:
        """Number of finished steps at which the cool-down starts: it is the run's last ``run.cooldown_steps`` steps."""
        return self.last_step - self.run.cooldown_steps

    @property
    def in_cooldown(self) -> bool:
        return self.step >= self.cooldown_start

    @property
    def is_validation_due(self) -> bool:
        return self.run.eval_every > 0 and self.step > self.validated_step and self.step % self.run.eval_every == 0

    @property
    def is_save_due(self) -> bool:
        return self.step > self.saved_step and (self.step % self.run.save_every == 0 or self.is_over)

    def learning_rate(self, config: UpdateConfig) -> float:
        """The schedule's rate for the next step; in the cool-down, it falls linearly to 0 from its last value."""
        if not self.in_cooldown or not self.run.cooldown_steps:
            return learning_rate(config, self.step, self.run.steps)
        start = self.cooldown_start
        return learning_rate(config, start, self.run.steps) * (1 - (self.step - start) / self.run.cooldown_steps)

    def finish_step(
        self,
        step: int,
        stream: dict[str, Any],
        random_state: dict[str, Any],
        grad_norm: float | None,
        has_saved_rollout: bool = False,
    ) -> None:
        """
        Args:
            stream: the state of the sample stream after the step
            random_state: of this process after the step
            grad_norm: None if no group had signal; not finite if the step was skipped
            has_saved_rollout: whether ``rollout.refresh`` used the last rollout again
        """
        self.step = step
        self.saved_rollouts += has_saved_rollout
        self.stream = stream
        self.random_state = random_state
        self.count_gradient(grad_norm)

    def count_gradient(self, norm: float | None) -> None:
        """Counts a step by its gradient's norm: None if no group had signal, not finite if it was skipped."""
        if norm is None:
            self.silent_steps += 1
            return
        is_skipped = not math.isfinite(norm)
        self.skipped_steps += is_skipped
        self.skips_in_a_row = self.skips_in_a_row + 1 if is_skipped else 0

    def take_validation(self, scores: Mapping[str, float]) -> None:
        """Records the scores of the current step; decides which tasks have reached their ``run.stop_when`` score."""
        goals = self.run.stop_when
        if goals and not self.in_cooldown:
            self.tasks_done = tuple(task for task, least in goals.items() if scores[task] >= least)
            if len(self.tasks_done) == len(goals):
                self.all_done_step = self.step
        self.validated_step = self.step
        self.validation = dict(scores)
