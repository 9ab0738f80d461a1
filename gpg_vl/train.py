"""A training run: recipe in, checkpoints and logs out.

The loop reads as Algorithm 1 of the paper: collect groups until enough have signal, follow the gradient of their
centred rewards, log. Everything that can be wrong with the recipe or the data is checked before the first step.
"""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from gpg_vl.checkpoint import (
    RECIPE_FILE,
    TrainingState,
    changed_versions,
    load_optimizer,
    load_random_state,
    load_state,
    save_checkpoint,
    write_recipe,
)
from gpg_vl.collect import CollectedGroups, Collector
from gpg_vl.config import Recipe
from gpg_vl.evaluate import Evaluator, number_rows
from gpg_vl.interrupts import Interrupted, deferred_interrupts
from gpg_vl.layouts import build_layout
from gpg_vl.models import load_adapter
from gpg_vl.models.folders import checkpoint_folder
from gpg_vl.models.qwen_vl import QwenVLAdapter
from gpg_vl.objectives import build_objective
from gpg_vl.objectives.base import Objective
from gpg_vl.optimizer import build_optimizer, check_optimizer, learning_rate, show_trained_parts
from gpg_vl.output_dir import check_room, claim_output_dir, find_resume_point
from gpg_vl.preflight import check_all_rows, check_group_size, check_same_rows, load_all_sources
from gpg_vl.prepare import CheckedSources
from gpg_vl.random_state import read_random_state, seed_everything
from gpg_vl.rank_watch import ranks_end_together
from gpg_vl.ranks import (
    RankError,
    check_whole_weights_fit,
    end_ranks,
    run_on_main,
    run_together,
    sharding_stage,
    start_ranks,
    sum_losses,
    whole_weights,
)
from gpg_vl.records import ScoredGroup, TrainingGroup
from gpg_vl.reference import Reference, sum_kl
from gpg_vl.rollout import build_engine
from gpg_vl.run_log import SKIPPED_FOLDER, RunLog, count_statuses, dump_groups, summarise_rewards
from gpg_vl.scores import summarise_scores
from gpg_vl.scoring import Scorer
from gpg_vl.self_check import check_packing
from gpg_vl.stream import SampleStream
from gpg_vl.update import PolicyForward, UpdateError, UpdateStats, accumulate_gradient, take_step
from gpg_vl.usable_rows import SourceReport, build_prompts, evaluation_room, show_rows, training_room


@dataclass(slots=True)
class Progress:
    """The run's position; what ``TrainingState`` stores of it."""

    step: int = 0  # finished optimizer steps
    stream: dict[str, Any] | None = None
    validated_step: int = 0
    validation: dict[str, float] = field(default_factory=dict)  # of validated_step
    tasks_done: tuple[str, ...] = ()
    all_done_step: int | None = None  # the step at which every task was at its run.stop_when score
    silent_steps: int = 0
    skipped_steps: int = 0  # whose gradient was not finite
    skips_in_a_row: int = 0
    shrunk_rows: int = 0  # training rows whose images are scaled down to fit
    random_state: dict[str, Any] = field(default_factory=dict)  # at the end of the step and its validation


def train(recipe: Recipe) -> Path:
    """Runs the recipe to its end, or on from where an earlier process stopped.

    Returns:
        the folder of the last checkpoint

    Raises:
        ValueError: the recipe, the data, the model or the output directory is unusable; one line says what to do
        RewardError: a completion could not be scored and ``rewards.on_error`` is abort
        OSError: the disk is full or gone; the last checkpoint is as it was
        Interrupted: SIGINT or SIGTERM

    Whatever ends the run early, the state of the last finished step is saved first.
    """
    accelerator = start_ranks()
    with ranks_end_together(), ExitStack() as stack:
        run_on_main(lambda: stack.enter_context(claim_output_dir(recipe)))
        scorer = stack.enter_context(Scorer(recipe.rewards))
        folder = _Trainer(recipe, scorer, accelerator).run()
    end_ranks()
    return folder


class _Trainer:
    """The state of a run and its loop. Made in the order that finds mistakes cheapest: recipe, rows, model."""

    def __init__(self, recipe: Recipe, scorer: Scorer, accelerator: Accelerator):
        self.recipe = recipe
        self.output_dir = Path(recipe.run.output_dir)
        self.accelerator = accelerator
        self.is_main = accelerator.is_main_process
        self.resumed_from = run_on_main(lambda: find_resume_point(recipe))
        self.objective: Objective = build_objective(recipe.objective)
        check_group_size(recipe, self.objective)
        check_optimizer(recipe.update, sharding_stage(accelerator))
        learning_rate(recipe.update, 0, recipe.run.steps)  # refuses options that the schedule does not take
        checked = run_together(self._load_sources)
        scorer.start()  # its processes come up while the model loads
        seed_everything(recipe.run.seed)
        self.adapter = run_together(self._load_adapter)
        self._place_weights()
        self.tasks = {name: task for each in checked for name, task in each.tasks.items()}
        self.prompts = build_prompts(recipe, self.tasks, self.adapter, training_room(recipe, self.adapter))
        self.eval_prompts = build_prompts(recipe, self.tasks, self.adapter, evaluation_room(recipe, self.adapter))
        reports = self._check_rows(checked) if self.resumed_from is None else []  # else they were checked before
        parameters = list(self.adapter.model.parameters())
        room = [sum(p.numel() for p in each) for each in (parameters, [p for p in parameters if p.requires_grad])]
        run_together(lambda: check_room(recipe, *room))
        self._build_stages(checked, scorer)
        self.stream.leave_out({row.id: row.cause for report in reports for row in report.left_out})
        self._take_up_position(sum(report.num_shrunk for report in reports))
        run_on_main(lambda: write_recipe(recipe, self.output_dir / RECIPE_FILE))
        self.log = run_together(self._open_log)
        if self.resumed_from is not None:
            self._restore_random_state(self.resumed_from)  # last: loading the model draws from them

    def _open_log(self) -> RunLog:
        run = self.recipe.run
        return RunLog(self.output_dir, run.trackers, self.progress.step, run.steps, is_silent=not self.is_main)

    def _restore_random_state(self, checkpoint: Path) -> None:
        rank = self.accelerator.process_index
        if not load_random_state(checkpoint, rank):
            print(f"note: the random states of rank {rank} start anew: the run had fewer ranks", file=sys.stderr)

    def _note(self, text: str) -> None:
        """A line on screen, once for all ranks."""
        if self.is_main:
            print(text, file=sys.stderr, flush=True)

    def _load_sources(self) -> list[CheckedSources]:
        checked = load_all_sources(self.recipe)
        if self.resumed_from is not None:
            check_same_rows(checked[0], load_state(self.resumed_from).data)
        return checked

    def _load_adapter(self) -> QwenVLAdapter:
        path = self.recipe.model.path if self.resumed_from is None else str(self.resumed_from)
        return load_adapter(replace(self.recipe.model, path=path))

    def _place_weights(self) -> None:
        model = self.adapter.model
        num_weights = sum(parameter.numel() for parameter in model.parameters())
        cost = run_together(lambda: check_whole_weights_fit(self.accelerator, num_weights))
        if cost is not None:
            self._note(
                f"ZeRO-3: a rollout gathers {cost.needed / 2**30:.2f} GiB of weights on every rank; "
                f"{cost.free / 2**30:.2f} GiB are free"
            )
        if sharding_stage(self.accelerator) < 3:  # else DeepSpeed takes each rank's share to its device
            model.to(self.accelerator.device)

    def _check_rows(self, checked: Sequence[CheckedSources]) -> list[SourceReport]:
        reports = check_all_rows(self.recipe, checked, self.prompts, self.eval_prompts, self.adapter)
        run_on_main(lambda: show_rows(reports, self.output_dir))
        return reports

    def _build_stages(self, checked: Sequence[CheckedSources], scorer: Scorer) -> None:
        """What a step goes through: stream, rollout, scoring, update; and validation."""
        recipe = self.recipe
        if recipe.rollout.top_p < 1 or recipe.rollout.top_k:
            self._note("note: samples come from a truncated distribution, log-probs from the full one")
        self.data_digests = checked[0].digests
        self.stream = SampleStream(checked[0].sources, recipe.run.seed)
        self.eval_rows = number_rows(checked[1]) if len(checked) > 1 else []
        engine = build_engine(recipe.rollout, self.adapter)
        self.collector = Collector(
            recipe, self.objective, self.stream, self.prompts, engine, self.tasks, scorer,
            self.adapter.encode_completion, self.accelerator,
        )  # fmt: skip
        self.evaluator = Evaluator(
            self.eval_prompts,
            engine,
            scorer,
            self.tasks,
            recipe.evaluation,
            recipe.rollout.max_new_tokens,
            recipe.run.seed,
        )
        forward = PolicyForward(self.adapter, recipe.rollout.temperature)
        optimizer = build_optimizer(self.adapter, recipe.update)
        if self.is_main:
            show_trained_parts(self.adapter, recipe.model, recipe.update)
        self.reference = Reference(recipe, self.adapter, self.accelerator) if self.objective.needs_log_probs else None
        self.policy = PolicyForward(self.adapter, recipe.rollout.temperature)  # outside of the layout
        self.layout = build_layout(self.accelerator, forward, optimizer, recipe.update.max_grad_norm)
        if self.accelerator.num_processes > 1:
            stage = sharding_stage(self.accelerator)
            self._note(f"{self.accelerator.num_processes} ranks, ZeRO-{stage}, {type(self.layout).__name__}")

    def _take_up_position(self, shrunk_rows: int) -> None:
        """Where the run stands: at its start, or behind the checkpoint that it goes on from."""
        self.progress = Progress(shrunk_rows=shrunk_rows)
        if self.resumed_from is not None:
            load_optimizer(self.resumed_from, self.adapter, self.layout.optimizer)
            self._restore(load_state(self.resumed_from))
            left_out = f", {len(self.stream.left_out)} rows left out" if self.stream.left_out else ""
            shrunk = f", {self.progress.shrunk_rows} scaled down" if self.progress.shrunk_rows else ""
            self._note(f"resuming {self.output_dir} after step {self.progress.step}{left_out}{shrunk}")
            for name, (then, now) in changed_versions(self.resumed_from).items():
                self._note(f"note: the run had {name} {then}, goes on with {now}; its numbers may differ")
        self.saved_step = self.progress.step
        self.is_checked = False

    def run(self) -> Path:
        if self.resumed_from is not None and self._is_over():
            ended = "by run.stop_when" if self.progress.all_done_step is not None else "at run.steps; raise it to go on"
            self._note(f"{self.output_dir} has ended {ended}")
        try:
            while True:
                if self._is_validation_due():
                    self._validate()
                if self._is_save_due():
                    self._save()
                if self._is_over():
                    return checkpoint_folder(self.output_dir, self.progress.step)
                self._step()
        except BaseException as error:
            self._save_after(error)
            raise
        finally:
            self.log.close()

    def _save_after(self, error: BaseException) -> None:
        """Saves the last finished step, except after an error of the disk: it would only come again.

        Several ranks save together, so not where one of them is on its way out alone.
        """
        alone = self.accelerator.num_processes > 1 and not isinstance(error, RankError | Interrupted)
        if isinstance(error, OSError) or alone:
            self._note(f"stopped; the same command goes on from step {self.saved_step}")
        elif self.progress.step > self.saved_step:
            self._note(f"stopped; the same command goes on from {self._save()}")

    def _is_over(self) -> bool:
        return self.progress.step >= self._last_step()

    def _last_step(self) -> int:
        run, all_done = self.recipe.run, self.progress.all_done_step
        return run.steps if all_done is None else min(run.steps, all_done + run.cooldown_steps)

    def _cooldown_start(self) -> int:
        """The last ``run.cooldown_steps`` steps of the run are the cool-down."""
        return self._last_step() - self.recipe.run.cooldown_steps

    def _is_validation_due(self) -> bool:
        step, every = self.progress.step, self.recipe.run.eval_every
        return bool(self.eval_rows) and step > self.progress.validated_step and step % every == 0

    def _is_save_due(self) -> bool:
        step = self.progress.step
        return step > self.saved_step and (step % self.recipe.run.save_every == 0 or self._is_over())

    def _step(self) -> None:
        start = time.perf_counter()
        number = self.progress.step + 1
        in_cooldown = self.progress.step >= self._cooldown_start()
        collected = self.collector.collect(number, () if in_cooldown else self.progress.tasks_done)
        collected_at = time.perf_counter()
        rate = self._learning_rate()
        stats = self._accumulate_gradient(collected)
        with deferred_interrupts():  # weights, position and log move on together
            grad_norm = None if stats is None else take_step(self.layout, rate)
            self.progress.step = number
            self.progress.stream = self.stream.state()
            self.progress.random_state = read_random_state()
            self.progress.silent_steps += stats is None
            self._count_skips(grad_norm)
            seconds = {
                "rollout": collected.rollout_seconds,
                "scoring": collected.scoring_seconds,
                "update": time.perf_counter() - collected_at,
                "step": time.perf_counter() - start,
            }
            everything = collected.of_all_ranks()
            run_together(lambda: self._write_log(everything, stats, grad_norm, rate, seconds))
        if self.progress.skips_in_a_row:
            self._report_skip(collected)

    def _count_skips(self, grad_norm: float | None) -> None:
        if grad_norm is not None:
            is_skipped = not math.isfinite(grad_norm)
            self.progress.skipped_steps += is_skipped
            self.progress.skips_in_a_row = self.progress.skips_in_a_row + 1 if is_skipped else 0

    def _report_skip(self, collected: CollectedGroups) -> None:
        """Writes the groups of the skipped step, every rank its own.

        Raises:
            UpdateError: it was one too many
        """
        progress, rank = self.progress, self.accelerator.process_index
        groups = [self.objective.training_group(group) for group in collected.trained]
        folder = self.output_dir / SKIPPED_FOLDER
        run_together(lambda: dump_groups(groups, folder / f"{progress.step:06d}-rank-{rank}.jsonl"))
        self._note(f"step {progress.step} is skipped: its gradient is not finite; its groups are in {folder}")
        if progress.skips_in_a_row >= self.recipe.update.max_skips:
            raise UpdateError(
                f"{progress.skips_in_a_row} steps in a row had a gradient that is not finite; look into {folder}, "
                "lower update.learning_rate, or go on from an earlier checkpoint"
            )

    def _accumulate_gradient(self, collected: CollectedGroups) -> UpdateStats | None:
        """The step's gradient, or None where no group of any rank has signal."""
        if collected.totals.trained_groups == 0:
            return None
        needs_forward = self.reference is not None or not self.is_checked
        with whole_weights(self.accelerator) if needs_forward else nullcontext():
            kl, groups = run_together(lambda: self._prepare_groups(collected.trained))
        stats = accumulate_gradient(
            self.layout,
            groups,
            self.objective.denominator(collected.totals, self.recipe.rollout.prompts_per_step),
            self.recipe.update,
            self.adapter,
            self.accelerator,
        )
        loss = sum_losses(self.accelerator, stats.loss)
        kl = None if kl is None else sum_losses(self.accelerator, kl) / collected.totals.trained_tokens
        return replace(stats, loss=loss, kl=kl)

    def _prepare_groups(self, trained: Sequence[ScoredGroup]) -> tuple[float | None, list[TrainingGroup]]:
        """The coefficients of this rank's groups, and the sum of their tokens' KL where there is a reference."""
        if self.reference is None:
            kl, groups = None, [self.objective.training_group(group) for group in trained]
        else:
            log_probs = self.reference.compare(self.policy, trained)
            kl, groups = sum_kl(log_probs), list(map(self.objective.training_group, trained, log_probs))
        if not self.is_checked:
            self._check_packing(groups)
            self.is_checked = True
        return kl, groups

    def _check_packing(self, groups: Sequence[TrainingGroup]) -> None:
        with_image = [group for group in groups if group.prompt.pixel_values is not None]
        for group in [*with_image, *groups][:1]:
            difference = check_packing(self.adapter, group, self.recipe.rollout.temperature)
            self._note(f"self-check: packed and plain log-probs agree to {difference:.1e}")

    def _learning_rate(self) -> float:
        """The schedule's rate; in the cool-down, falling linearly to 0 from where it stood."""
        config, steps, step = self.recipe.update, self.recipe.run.steps, self.progress.step
        start = self._cooldown_start()
        if step < start or not self.recipe.run.cooldown_steps:
            return learning_rate(config, step, steps)
        return learning_rate(config, start, steps) * (1 - (step - start) / self.recipe.run.cooldown_steps)

    def _validate(self) -> None:
        """Scores the validation rows; decides which tasks are at their ``run.stop_when`` score."""
        progress, stop_when = self.progress, self.recipe.run.stop_when
        with whole_weights(self.accelerator):
            predictions = [each for part in self.evaluator.run(self.eval_rows) for each in part]
        scores = summarise_scores(predictions, self.tasks)
        with deferred_interrupts():
            if stop_when and progress.step < self._cooldown_start():
                progress.tasks_done = tuple(task for task, least in stop_when.items() if scores[task].value >= least)
                if len(progress.tasks_done) == len(stop_when):
                    progress.all_done_step = progress.step
            progress.validated_step = progress.step
            progress.validation = {task: score.value for task, score in scores.items()}
            progress.random_state = read_random_state()
            metrics = {"eval": {task: score.to_dict() for task, score in scores.items()}}
            run_together(lambda: self.log.write(progress.step, metrics))
            text = "  ".join(f"{task} {score.metric} {score.value:.3f}" for task, score in scores.items())
            self.log.say(progress.step, f"validation: {text}")

    def _write_log(
        self,
        collected: CollectedGroups,
        stats: UpdateStats | None,
        grad_norm: float | None,
        rate: float,
        seconds: dict[str, float],
    ) -> None:
        totals = collected.totals
        rewards = summarise_rewards(collected.groups)
        norm = grad_norm if grad_norm is not None and math.isfinite(grad_norm) else None  # JSON has no infinity
        metrics = {
            **rewards,
            "status": count_statuses([*collected.groups, *collected.dropped]),
            "dropped_groups": len(collected.dropped),
            "alpha": totals.alpha,
            "groups": totals.groups,
            "trained_groups": totals.trained_groups,
            "draws": collected.num_draws,
            "left_out": dict(Counter(self.stream.left_out.values())),
            "shrunk_rows": self.progress.shrunk_rows,
            "silent_steps": self.progress.silent_steps,
            "skipped_steps": self.progress.skipped_steps,
            "learning_rate": rate,
            "update": None if stats is None else {**asdict(stats), "grad_norm": norm},
            "seconds": seconds,
        }
        self.log.write(self.progress.step, metrics)
        self.log.write_rollouts(self.progress.step, [*collected.groups, *collected.dropped], collected.trained)
        update = "no signal: no update" if stats is None else f"loss {stats.loss:+.4f}  grad {grad_norm:.3f}"
        self.log.say(
            self.progress.step,
            f"reward {rewards.get('reward', math.nan):.3f}  signal {totals.trained_groups}/{totals.groups}  {update}  "
            f"{seconds['step']:.1f} s",
        )

    def _save(self) -> Path:
        progress = self.progress
        assert progress.stream is not None
        state = TrainingState(
            step=progress.step,
            stream=progress.stream,
            validated_step=progress.validated_step,
            validation=progress.validation if progress.validated_step == progress.step else {},
            tasks_done=list(progress.tasks_done),
            all_done_step=progress.all_done_step,
            counters={
                "silent_steps": progress.silent_steps,
                "skipped_steps": progress.skipped_steps,
                "skips_in_a_row": progress.skips_in_a_row,
                "shrunk_rows": progress.shrunk_rows,
            },
            data=self.data_digests,
        )
        with deferred_interrupts():
            folder = save_checkpoint(
                self.recipe, self.adapter, self.layout.optimizer, state, progress.random_state, self.log.latest,
                self.accelerator,
            )  # fmt: skip
            self.saved_step = progress.step
        return folder

    def _restore(self, state: TrainingState) -> None:
        self.progress = Progress(
            step=state.step,
            stream=state.stream,
            validated_step=state.validated_step,
            validation=state.validation,
            tasks_done=tuple(state.tasks_done),
            all_done_step=state.all_done_step,
            silent_steps=state.counters["silent_steps"],
            skipped_steps=state.counters["skipped_steps"],
            skips_in_a_row=state.counters["skips_in_a_row"],
            shrunk_rows=state.counters["shrunk_rows"],
        )
        self.stream.restore(state.stream)
