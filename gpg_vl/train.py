"""A training run: recipe in, checkpoints and logs out.

The loop is Algorithm 1 of the paper. ``Collector.collect`` draws, rolls out, scores and asks which groups can be
trained, until a share of beta_th can; ``Objective`` has alpha and the centred rewards, ``Learner`` gradient and step.
Everything that can be wrong with the recipe or the data is checked before the first step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from accelerate import Accelerator

from gpg_vl.assemble import Stages, assemble
from gpg_vl.callbacks import SILENT, CallbackError, Callbacks
from gpg_vl.config import Recipe
from gpg_vl.draws import Draws
from gpg_vl.evaluation.scores import summarise_scores
from gpg_vl.models.device import describe_device
from gpg_vl.models.folder.paths import checkpoint_folder, checkpoint_step
from gpg_vl.preflight.sources import CheckedSources
from gpg_vl.processes.allocator import let_blocks_grow
from gpg_vl.processes.determinism import deterministic
from gpg_vl.processes.interrupts import INTERRUPTS, Interrupted
from gpg_vl.processes.rank_watch import ranks_end_together
from gpg_vl.processes.ranks import RankError, end_ranks, note, run_on_main, run_together
from gpg_vl.processes.start import start_ranks
from gpg_vl.records import CollectedGroups
from gpg_vl.rewards.scorer import Scorer
from gpg_vl.run.background_save import BackgroundSaves
from gpg_vl.run.checkpoint import OwnState, save_checkpoint
from gpg_vl.run.claim import LostFolder, check_all_see
from gpg_vl.run.output_dir import claim_output_dir
from gpg_vl.step_report import FinishedStep, StepReports
from gpg_vl.update.reuse import Reuse


def train(recipe: Recipe, checked: Sequence[CheckedSources] | None = None, callbacks: Callbacks = SILENT) -> Path:
    """Runs the recipe to its end, continuing where an earlier process stopped.

    Args:
        checked: the sources, where they have been checked before (``preflight.start``)
        callbacks: what is called while the run goes on; what they raise ends it

    Returns:
        the folder of the last checkpoint

    Raises:
        ValueError: the recipe, the data, the model or the output directory is unusable; one line says what to do
        RewardError: a completion could not be scored and ``rewards.on_error`` is abort
        OSError: the disk is full or gone; the last checkpoint is intact
        Interrupted: a signal that asks the run to stop (processes.interrupts)

    If the run ends early, the state of the last finished step is saved first.
    """
    let_blocks_grow(recipe.rollout)
    accelerator = start_ranks(on_cpu=recipe.model.device == "cpu")
    note(describe_device(accelerator.device, recipe.model))
    is_exact, limit = recipe.run.deterministic, recipe.run.hang_timeout_s
    with deterministic(is_wanted=is_exact), ranks_end_together(limit), ExitStack() as stack:
        run_on_main(lambda: stack.enter_context(claim_output_dir(recipe)))
        check_all_see(Path(recipe.run.output_dir))
        scorer = stack.enter_context(Scorer(recipe.rewards))
        stages = assemble(recipe, scorer, accelerator, checked)
        stack.callback(stages.prompts.close)
        stack.callback(stages.collector.drop_begun)
        try:
            folder = Loop(recipe, stages, accelerator, callbacks).run()
        except CallbackError as error:
            raise error.raised from None
    end_ranks()
    return folder


class Loop:
    """The steps of a run, its validations and its checkpoints."""

    def __init__(self, recipe: Recipe, stages: Stages, accelerator: Accelerator, callbacks: Callbacks = SILENT):
        self._recipe = recipe
        self._stages = stages
        self._callbacks = callbacks
        self._progress = stages.progress
        self._accelerator = accelerator
        self._draws = Draws(recipe, stages.collector, stages.stream, stages.progress, stages.record)
        self._reports = StepReports(recipe, stages, accelerator, callbacks)
        self._reuse = Reuse(stages.learner, recipe.rollout.refresh, stages.rollout)
        self._saves = BackgroundSaves(stages.adapter, stages.learner.optimizer, accelerator)

    def run(self) -> Path:
        """Takes steps until the run is over; returns the folder of the last checkpoint."""
        try:
            self._stages.log.start_display()
            while True:
                if self._stages.eval_rows and self._progress.is_validation_due:
                    self._validate()
                if self._saves.is_writing and self._saves.is_done():
                    self._take_saved(self._finish_begun())
                if self._progress.is_save_due:
                    self._save_due()
                if self._progress.is_over:
                    return checkpoint_folder(Path(self._recipe.run.output_dir), self._progress.step)
                self._step()
        except BaseException as error:
            with INTERRUPTS.deferred():  # a signal that comes on top must not cost the steps
                self._save_after(error)
            raise
        finally:
            self._saves.close()
            self._stages.log.close()

    def _step(self) -> None:
        """Algorithm 1: draw, roll out and score until a share of beta_th has signal; follow the gradient.

        An objective that corrects for it may follow one rollout for several steps.
        """
        start = time.perf_counter()
        number, learner = self._progress.step + 1, self._stages.learner
        rollout = self._reuse.next_rollout(has_skipped=self._progress.skips_in_a_row > 0)
        collected = self._draws.collect(number) if rollout is None else None
        self._draws.begin(number + 1)
        collected_at = time.perf_counter()
        self._stages.log.show_phase("update")
        lesson = None if collected is None else self._learn_gold(number, collected)
        if collected is not None:
            rollout = learner.open_rollout(number, collected)
        assert rollout is not None
        stats = learner.accumulate_gradient(rollout)
        with INTERRUPTS.deferred():  # weights, position and log change together
            rate = self._progress.learning_rate(self._recipe.update)
            grad_norm = None if stats is None else learner.take_step(rate)
            self._reuse.finish_update(rollout)
            if lesson is not None:
                lesson()
            self._finish_step(number, grad_norm)
            now = time.perf_counter()
            seconds = {"update": now - collected_at, "step": now - start}
            shift = self._reuse.shift
            self._reports.write(FinishedStep(rollout, collected, stats, shift, grad_norm, rate, seconds))
        self._reports.tell()

    def _learn_gold(self, step: int, collected: CollectedGroups) -> Callable[[], None] | None:
        """What brings the discriminator, if there is one, to its state after the step."""
        part = self._stages.gold_part
        return None if part is None else partial(part.commit, part.learn(step, collected.groups))

    def _finish_step(self, number: int, grad_norm: float | None) -> None:
        self._progress.finish_step(number, *self._draws.position, grad_norm, self._reuse.is_used_again)

    def _validate(self) -> None:
        """Scores the validation rows."""
        stages, progress = self._stages, self._progress
        start = time.perf_counter()
        stages.log.show_phase("validation")
        predictions = [each for part in stages.evaluator.run(stages.eval_rows) for each in part]
        scores = summarise_scores(predictions, stages.tasks)
        with INTERRUPTS.deferred():
            progress.take_validation({task: score.value for task, score in scores.items()})
            progress.random_state = self._draws.position[1]
            self._reports.write_validation(scores)
        self._reports.count_seconds("validation", time.perf_counter() - start)
        self._callbacks.after_validation(progress.step, scores)

    def _save_due(self) -> None:
        """Has the checkpoint that is due written while the run goes on, or waits for it where it has to."""
        start = time.perf_counter()
        self._stages.log.show_phase("saving")
        self._take_saved(self._finish_begun())
        if self._progress.is_over or self._saves.has_to_wait():
            self._callbacks.after_save(self._progress.step, self._save())
        else:
            with INTERRUPTS.deferred():
                run_together(self._stages.log.flush)  # before it is sealed: who resumes finds the log of its steps
                self._saves.begin(self._recipe, self._own_state())
        self._reports.count_seconds("saving", time.perf_counter() - start)

    def _save(self) -> Path:
        stages, progress = self._stages, self._progress
        with INTERRUPTS.deferred():
            run_together(stages.log.flush)
            folder = save_checkpoint(
                self._recipe, stages.adapter, stages.learner.optimizer, self._accelerator, self._own_state()
            )
            self._saves.follow(folder)
            progress.saved_step = progress.step
        return folder

    def _own_state(self) -> OwnState:
        stages, progress = self._stages, self._progress
        learned = None if stages.gold_part is None else stages.gold_part.state()
        return OwnState(progress.state(), progress.random_state, stages.log.latest, self._reuse.rollout, learned)

    def _finish_begun(self) -> Path | None:
        """The checkpoint that is being written, if any, once it is complete."""
        with INTERRUPTS.deferred():
            return self._count_saved(self._saves.finish())

    def _take_saved(self, folder: Path | None) -> None:
        if folder is not None:
            self._count_saved(folder)
            self._callbacks.after_save(self._progress.saved_step, folder)

    def _count_saved(self, folder: Path | None) -> Path | None:
        if folder is not None:
            self._progress.saved_step = checkpoint_step(folder)
        return folder

    def _save_after(self, error: BaseException) -> None:
        """Saves the last finished step, except after a disk error, which would only occur again.

        Several ranks save together, so nothing is saved if a single rank fails alone.
        """
        if isinstance(error, LostFolder):
            return
        progress = self._progress
        alone = self._accelerator.num_processes > 1 and not isinstance(error, RankError | Interrupted)
        if isinstance(error, OSError) or alone:
            self._count_saved(self._saves.close())
            note(f"stopped; the same command continues from step {progress.saved_step}")
            return
        try:
            self._finish_begun()
            if progress.step > progress.saved_step:
                note(f"stopped; the same command continues from {self._save()}")
        except ValueError as refused:  # weights that are not finite
            if str(refused) != str(error):
                note(str(refused))
            note(f"stopped; the same command continues from step {progress.saved_step}")
