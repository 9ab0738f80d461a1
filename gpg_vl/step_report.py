"""What a step leaves for people: its numbers, rollouts and record, what they should know of it, and their callbacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from gpg_vl.assemble import Stages
from gpg_vl.callbacks import Callbacks
from gpg_vl.collect import gather_collected
from gpg_vl.config import Recipe
from gpg_vl.evaluation.scores import TaskScore
from gpg_vl.processes.collectives import max_over_ranks, sum_losses
from gpg_vl.processes.ranks import note, run_together
from gpg_vl.records import CollectedGroups, LoggedStep, UpdateStats
from gpg_vl.rewards.health import RewardWatch
from gpg_vl.run.advice import Advice
from gpg_vl.run.run_log import SKIPPED_FOLDER, dump_groups
from gpg_vl.run.speed import describe_speed, peak_memory, peak_rate
from gpg_vl.run.step_metrics import describe_step, describe_use
from gpg_vl.update.gradient import UpdateError
from gpg_vl.update.rollouts import Rollout


@dataclass(frozen=True, slots=True)
class FinishedStep:
    """A step whose weights and position are those of the next."""

    rollout: Rollout
    collected: CollectedGroups | None  # None where an earlier rollout was followed again
    stats: UpdateStats | None
    shift: float | None  # of the policy since the rollout, where that is measured
    grad_norm: float | None
    learning_rate: float
    seconds: Mapping[str, float]  # "update" and "step"


class StepReports:
    """The reports of a run's steps and validations. All ranks call it together."""

    def __init__(self, recipe: Recipe, stages: Stages, accelerator: Accelerator, callbacks: Callbacks):
        self._recipe = recipe
        self._stages = stages
        self._accelerator = accelerator
        self._callbacks = callbacks
        self._reward_watch = RewardWatch()
        self._advice = Advice(recipe, stages.log.earlier)
        self._between: dict[str, float] = {}  # seconds of what was done since the last step
        self._logged: LoggedStep | None = None
        self._metrics: dict[str, Any] = {}

    def count_seconds(self, work: str, seconds: float) -> None:
        """Of a validation or a checkpoint, which the next step's numbers name."""
        self._between[work] = seconds

    def write(self, step: FinishedStep) -> None:
        """Writes the log and what belongs to it, before anything can end the run."""
        collected, stages = step.collected, self._stages
        self._logged = None if collected is None else gather_collected(collected, stages.tasks)
        self._metrics = {**self._describe(step), "speed": self._measure_speed(step)}
        self._between = {}
        run_together(partial(self._write_log, self._logged, self._metrics))
        if collected is not None and stages.record.is_due(stages.progress.step):
            rows = stages.record.write(stages.progress.step, collected)
            stages.log.write_pictures(stages.progress.step, rows)

    def tell(self) -> None:
        """What the user should know of the step, and the callbacks.

        Raises:
            UpdateError: too many steps in a row were skipped
        """
        logged = self._logged
        if logged is not None:
            rewards = self._reward_watch.notes([*logged.groups, *logged.dropped])
            for line in (*rewards, *self._advice.notes(self._metrics)):
                note(line)
        if self._stages.progress.skips_in_a_row:
            self._report_skip()
        if self._callbacks.on_step is not None:
            run_together(self._stages.log.flush)
        self._callbacks.after_step(self._stages.progress.step, self._metrics)

    def write_validation(self, scores: Mapping[str, TaskScore]) -> None:
        step, log = self._stages.progress.step, self._stages.log
        run_together(lambda: log.write(step, {"eval": {task: score.to_dict() for task, score in scores.items()}}))
        if self._callbacks.on_validation is not None:
            run_together(log.flush)
        text = "  ".join(f"{task} {score.metric} {score.value:.3f}" for task, score in scores.items())
        log.say(step, f"validation: {text}")

    def _describe(self, step: FinishedStep) -> dict[str, Any]:
        progress, is_refreshed = self._stages.progress, self._recipe.rollout.refresh is not None
        return {
            **describe_step(self._logged, step.stats, step.grad_norm, {**self._between, **step.seconds}),
            **describe_use(step.rollout, step.shift, progress.saved_rollouts, is_refreshed),
            "left_out": dict(Counter(self._stages.stream.left_out.values())),
            "shrunk_rows": progress.shrunk_rows,
            "silent_steps": progress.silent_steps,
            "skipped_steps": progress.skipped_steps,
            "learning_rate": step.learning_rate,
        }

    def _measure_speed(self, step: FinishedStep) -> dict[str, float]:
        """The numbers of a step that depend on the machine."""
        accelerator, seconds, collected = self._accelerator, step.seconds["step"], step.collected
        peak = max_over_ranks(accelerator, peak_memory(accelerator.device))
        rate = peak_rate(accelerator.device)
        if accelerator.device.type != "cuda":
            return describe_speed(self._logged, seconds, peak)
        sampled = [] if collected is None else [*collected.groups, *collected.dropped]
        flops = self._stages.learner.useful_flops(sampled, has_updated=step.stats is not None)
        total = None if flops is None else sum_losses(accelerator, flops)
        return describe_speed(self._logged, seconds, peak, total, rate and rate * accelerator.num_processes)

    def _write_log(self, logged: LoggedStep | None, metrics: dict[str, Any]) -> None:
        step, log = self._stages.progress.step, self._stages.log
        log.write(step, metrics)
        if logged is not None:
            log.write_rollouts(step, [*logged.groups, *logged.dropped])
        log.say_step(step, metrics)

    def _report_skip(self) -> None:
        """Writes the groups of the skipped step; every rank writes its own.

        Raises:
            UpdateError: too many steps in a row were skipped
        """
        progress, rank = self._stages.progress, self._accelerator.process_index
        folder = Path(self._recipe.run.output_dir) / SKIPPED_FOLDER
        groups = self._stages.learner.groups
        run_together(lambda: dump_groups(groups, folder / f"{progress.step:06d}-rank-{rank}.jsonl"))
        note(f"step {progress.step} is skipped: its gradient is not finite; its groups are in {folder}")
        if progress.skips_in_a_row >= self._recipe.update.max_skips:
            raise UpdateError(
                f"{progress.skips_in_a_row} steps in a row had a gradient that is not finite; look into {folder}, "
                "lower update.learning_rate, or continue from an earlier checkpoint"
            )
