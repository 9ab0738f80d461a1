"""A training run: recipe in, checkpoints and logs out.

The loop reads as Algorithm 1 of the paper: collect groups until enough have signal, follow the gradient of their
centred rewards, log. Everything that can be wrong with the recipe or the data is checked before the first step.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator

from gpg_vl.collect import Collector, gather_collected
from gpg_vl.config import Recipe
from gpg_vl.data.stream import SampleStream
from gpg_vl.evaluation.evaluator import Evaluator
from gpg_vl.evaluation.rows import number_rows
from gpg_vl.evaluation.scores import summarise_scores
from gpg_vl.models import load_adapter
from gpg_vl.models.paths import checkpoint_folder
from gpg_vl.models.qwen_vl import QwenVLAdapter
from gpg_vl.objectives import build_objective
from gpg_vl.objectives.base import Objective
from gpg_vl.preflight.rows import SourceReport, check_all_rows, show_rows
from gpg_vl.preflight.sources import CheckedSources, check_group_size, check_same_rows, load_all_sources
from gpg_vl.processes.interrupts import Interrupted, deferred_interrupts
from gpg_vl.processes.rank_watch import ranks_end_together
from gpg_vl.processes.ranks import RankError, end_ranks, run_on_main, run_together
from gpg_vl.processes.start import sharding_stage, start_ranks
from gpg_vl.processes.weights import check_whole_weights_fit, whole_weights
from gpg_vl.prompts.gold import GoldCompletions
from gpg_vl.prompts.room import build_prompts, evaluation_room, training_room
from gpg_vl.records import LoggedStep
from gpg_vl.rewards.scorer import Scorer
from gpg_vl.rollout import build_engine
from gpg_vl.run.checkpoint import changed_versions, load_optimizer, load_random_state, load_state, save_checkpoint
from gpg_vl.run.output_dir import check_room, claim_output_dir, find_resume_point
from gpg_vl.run.progress import Progress
from gpg_vl.run.random_state import read_random_state, seed_everything
from gpg_vl.run.run_log import SKIPPED_FOLDER, RunLog, dump_groups
from gpg_vl.run.saved_recipe import RECIPE_FILE, write_recipe
from gpg_vl.run.step_metrics import describe_step, step_line
from gpg_vl.update.gradient import UpdateError, UpdateStats
from gpg_vl.update.learner import Learner
from gpg_vl.update.optimizer import check_optimizer, learning_rate, show_trained_parts


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
        self.gold = GoldCompletions(self.adapter, self.tasks)
        reports = self._check_rows(checked) if self.resumed_from is None else []  # else they were checked before
        parameters = list(self.adapter.model.parameters())
        room = [sum(p.numel() for p in each) for each in (parameters, [p for p in parameters if p.requires_grad])]
        run_together(lambda: check_room(recipe, *room))
        self._build_stages(checked, scorer)
        self.stream.leave_out({row.id: row.cause for report in reports for row in report.left_out})
        self._take_up_position(checked[0].digests, sum(report.num_shrunk for report in reports))
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
        gold = self.gold if self.objective.imitates_gold else None
        reports = check_all_rows(self.recipe, checked, self.prompts, self.eval_prompts, self.adapter, gold)
        run_on_main(lambda: show_rows(reports, self.output_dir))
        return reports

    def _build_stages(self, checked: Sequence[CheckedSources], scorer: Scorer) -> None:
        """What a step goes through: stream, rollout, scoring, update; and validation."""
        recipe = self.recipe
        if recipe.rollout.top_p < 1 or recipe.rollout.top_k:
            self._note("note: samples come from a truncated distribution, log-probs from the full one")
        self.stream = SampleStream(checked[0].sources, recipe.run.seed)
        self.eval_rows = number_rows(checked[1]) if len(checked) > 1 else []
        engine = build_engine(recipe.rollout, self.adapter)
        self.collector = Collector(
            recipe, self.objective, self.stream, self.prompts, engine, self.gold, scorer, self.accelerator
        )
        self.evaluator = Evaluator(
            self.eval_prompts,
            engine,
            scorer,
            self.tasks,
            recipe.evaluation,
            recipe.rollout.max_new_tokens,
            recipe.run.seed,
        )
        if self.is_main:
            show_trained_parts(self.adapter, recipe.model, recipe.update)
        self.learner = Learner(recipe, self.objective, self.adapter, self.accelerator)
        if self.accelerator.num_processes > 1:
            stage, layout = sharding_stage(self.accelerator), type(self.learner.layout).__name__
            self._note(f"{self.accelerator.num_processes} ranks, ZeRO-{stage}, {layout}")

    def _take_up_position(self, digests: list[str], shrunk_rows: int) -> None:
        """Where the run stands: at its start, or behind the checkpoint that it goes on from."""
        if self.resumed_from is None:
            self.progress = Progress(self.recipe.run, digests, shrunk_rows=shrunk_rows)
            return
        load_optimizer(self.resumed_from, self.adapter, self.learner.optimizer)
        self.progress = Progress.after(load_state(self.resumed_from), self.recipe.run)
        self.stream.restore(self.progress.stream)
        left_out = f", {len(self.stream.left_out)} rows left out" if self.stream.left_out else ""
        shrunk = f", {self.progress.shrunk_rows} scaled down" if self.progress.shrunk_rows else ""
        self._note(f"resuming {self.output_dir} after step {self.progress.step}{left_out}{shrunk}")
        for name, (then, now) in changed_versions(self.resumed_from).items():
            self._note(f"note: the run had {name} {then}, goes on with {now}; its numbers may differ")

    def run(self) -> Path:
        if self.resumed_from is not None and self.progress.is_over:
            ended = "by run.stop_when" if self.progress.all_done_step is not None else "at run.steps; raise it to go on"
            self._note(f"{self.output_dir} has ended {ended}")
        try:
            while True:
                if self.eval_rows and self.progress.is_validation_due:
                    self._validate()
                if self.progress.is_save_due:
                    self._save()
                if self.progress.is_over:
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
            self._note(f"stopped; the same command goes on from step {self.progress.saved_step}")
        elif self.progress.step > self.progress.saved_step:
            self._note(f"stopped; the same command goes on from {self._save()}")

    def _step(self) -> None:
        start = time.perf_counter()
        progress = self.progress
        number = progress.step + 1
        collected = self.collector.collect(number, () if progress.in_cooldown else progress.tasks_done)
        collected_at = time.perf_counter()
        rate = progress.learning_rate(self.recipe.update)
        stats = self.learner.accumulate_gradient(collected)
        with deferred_interrupts():  # weights, position and log move on together
            grad_norm = None if stats is None else self.learner.take_step(rate)
            progress.step = number
            progress.stream = self.stream.state()
            progress.random_state = read_random_state()
            progress.count_gradient(grad_norm)
            now = time.perf_counter()
            seconds = {"update": now - collected_at, "step": now - start}
            logged = gather_collected(collected)
            run_together(lambda: self._write_log(logged, stats, grad_norm, rate, seconds))
        if progress.skips_in_a_row:
            self._report_skip()

    def _report_skip(self) -> None:
        """Writes the groups of the skipped step, every rank its own.

        Raises:
            UpdateError: it was one too many
        """
        progress, rank = self.progress, self.accelerator.process_index
        folder = self.output_dir / SKIPPED_FOLDER
        run_together(lambda: dump_groups(self.learner.groups, folder / f"{progress.step:06d}-rank-{rank}.jsonl"))
        self._note(f"step {progress.step} is skipped: its gradient is not finite; its groups are in {folder}")
        if progress.skips_in_a_row >= self.recipe.update.max_skips:
            raise UpdateError(
                f"{progress.skips_in_a_row} steps in a row had a gradient that is not finite; look into {folder}, "
                "lower update.learning_rate, or go on from an earlier checkpoint"
            )

    def _validate(self) -> None:
        """Scores the validation rows."""
        with whole_weights(self.accelerator):
            predictions = [each for part in self.evaluator.run(self.eval_rows) for each in part]
        scores = summarise_scores(predictions, self.tasks)
        with deferred_interrupts():
            self.progress.take_validation({task: score.value for task, score in scores.items()})
            self.progress.random_state = read_random_state()
            metrics = {"eval": {task: score.to_dict() for task, score in scores.items()}}
            run_together(lambda: self.log.write(self.progress.step, metrics))
            text = "  ".join(f"{task} {score.metric} {score.value:.3f}" for task, score in scores.items())
            self.log.say(self.progress.step, f"validation: {text}")

    def _write_log(
        self,
        logged: LoggedStep,
        stats: UpdateStats | None,
        grad_norm: float | None,
        rate: float,
        seconds: dict[str, float],
    ) -> None:
        progress = self.progress
        metrics = {
            **describe_step(logged, stats, grad_norm, seconds),
            "left_out": dict(Counter(self.stream.left_out.values())),
            "shrunk_rows": progress.shrunk_rows,
            "silent_steps": progress.silent_steps,
            "skipped_steps": progress.skipped_steps,
            "learning_rate": rate,
        }
        self.log.write(progress.step, metrics)
        self.log.write_rollouts(progress.step, [*logged.groups, *logged.dropped])
        self.log.say(progress.step, step_line(metrics))

    def _save(self) -> Path:
        progress = self.progress
        with deferred_interrupts():
            folder = save_checkpoint(
                self.recipe, self.adapter, self.learner.optimizer, progress.state(), progress.random_state,
                self.log.latest, self.accelerator,
            )  # fmt: skip
            progress.saved_step = progress.step
        return folder
