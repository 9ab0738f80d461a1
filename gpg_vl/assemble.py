"""A recipe -> the stages of a run. Cheap checks come first: the recipe, the rows, the model, then the rows in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file

from gpg_vl.collect import Collector
from gpg_vl.config import Recipe
from gpg_vl.data.stream import SampleStream
from gpg_vl.errors import first_line
from gpg_vl.evaluation.evaluator import Evaluator
from gpg_vl.evaluation.rows import EvaluationRow, number_rows
from gpg_vl.learned.gold_part import GoldLikeness
from gpg_vl.learned.reward_parts import LearnedParts, build_parts
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.kernels import refuse_kernels
from gpg_vl.models.weights.compute_types import bytes_computed_in
from gpg_vl.models.weights.four_bit import refuse_without_library
from gpg_vl.objectives.base import Objective
from gpg_vl.planning.check import Fit, fit_run, machine_here, with_budgets
from gpg_vl.planning.memory import Budgets
from gpg_vl.planning.shapes import NotOnShapes
from gpg_vl.preflight.agreement import check_same_content, check_same_recipe, find_model
from gpg_vl.preflight.pins import check_pins, take_pins
from gpg_vl.preflight.rewards import fit_rewards
from gpg_vl.preflight.rows import SourceReport, check_all_rows, show_rows
from gpg_vl.preflight.sources import CheckedSources, check_same_rows, load_all_sources
from gpg_vl.preflight.start import check_recipe
from gpg_vl.preflight.trackers import check_trackers
from gpg_vl.preflight.trial import try_model
from gpg_vl.processes.ranks import note, run_on_main, run_together
from gpg_vl.processes.sharding import sharding_of
from gpg_vl.processes.whole_weights import check_whole_weights_fit
from gpg_vl.prompts.gold import GoldCompletions
from gpg_vl.prompts.length import build_prompts, evaluation_room, training_room
from gpg_vl.prompts.prefetch import PromptsAhead, choose_workers
from gpg_vl.rewards.scorer import Scorer
from gpg_vl.rollout import build_engines
from gpg_vl.rollout.limits import RowLimits, find_limits
from gpg_vl.run.checkpoint import changed_versions, load_optimizer, load_random_state, load_state
from gpg_vl.run.checkpoint_writing import LEARNED_FILE, STATE_FOLDER
from gpg_vl.run.claim import check_claim
from gpg_vl.run.output_dir import check_room, find_resume_point
from gpg_vl.run.progress import Progress
from gpg_vl.run.random_state import seed_everything
from gpg_vl.run.record import Record
from gpg_vl.run.run_log import RunLog
from gpg_vl.run.saved_recipe import RECIPE_FILE, write_recipe
from gpg_vl.run.saved_rollout import read_rollout
from gpg_vl.run.schedule import describe_extension
from gpg_vl.screen import say
from gpg_vl.tasks.base import Task
from gpg_vl.update.handing_out import hand_out, load_policy
from gpg_vl.update.layouts import refuse_layout
from gpg_vl.update.learner import Learner
from gpg_vl.update.optimizer import check_optimizer, learning_rate, show_trained_parts
from gpg_vl.update.rollouts import Rollout


@dataclass(frozen=True, slots=True)
class Stages:
    """Everything that the loop of a run uses."""

    adapter: Adapter
    tasks: dict[str, Task]  # by the name that the rows use
    stream: SampleStream
    prompts: PromptsAhead
    collector: Collector
    learner: Learner
    evaluator: Evaluator
    eval_rows: Sequence[EvaluationRow]  # empty if there is no validation
    gold_part: GoldLikeness | None  # the part of the reward that learns on, if any
    rollout: Rollout | None  # which the run stopped in the middle of
    progress: Progress
    log: RunLog
    record: Record


def assemble(
    recipe: Recipe, scorer: Scorer, accelerator: Accelerator, checked: Sequence[CheckedSources] | None = None
) -> Stages:
    """Loads and checks everything that the recipe names, for a new or a resumed run. All ranks call it together.

    Args:
        checked: the sources, where they have been checked before

    Raises:
        ValueError: the recipe, the data, the model or the output directory cannot be used; one line says what to do
    """
    check_same_recipe(recipe)
    checkpoint = run_on_main(lambda: find_resume_point(recipe))
    objective = run_together(lambda: _build_objective(recipe, accelerator))
    path = recipe.model.path if checkpoint is None else str(checkpoint)
    run_together(lambda: refuse_kernels(recipe.model, path, accelerator.device))
    sources = run_together(lambda: _load_sources(recipe, checkpoint, checked))
    pins = run_together(lambda: _take_pins(recipe, checkpoint, sources, reads_weights=accelerator.is_main_process))
    _check_content(recipe, path, sources, pins)
    objective = run_together(lambda: fit_rewards(recipe, objective, sources[0].tasks.values()))
    scorer.start()
    run_on_main(lambda: try_model(recipe, path, sources, scorer, objective))
    budgets = _choose_budgets(recipe, path, sources, accelerator)
    seed_everything(recipe.run.seed)
    adapter = run_together(lambda: load_policy(replace(recipe.model, path=path), accelerator))
    _place_weights(adapter, accelerator)
    limits = find_limits(recipe.rollout, adapter, of_all=recipe.data.on_long_prompt == "shrink")
    parts = run_together(lambda: _Parts(recipe, objective, sources, adapter, scorer, accelerator, budgets, limits))
    reports = _check_rows(parts) if checkpoint is None else []  # a resumed run has checked them before
    run_together(lambda: check_room(recipe, *adapter.num_parameters(), _step_of(checkpoint)))
    stages = _build_stages(parts, reports, checkpoint, pins)
    run_on_main(lambda: _write_recipe(recipe, Path(recipe.run.output_dir)))
    if checkpoint is not None:
        rank = accelerator.process_index
        run_together(partial(_restore_random_state, checkpoint, rank))  # last: loading the model draws random numbers
    return stages


def _choose_budgets(recipe: Recipe, path: str, sources: Sequence[CheckedSources], accelerator: Accelerator) -> Budgets:
    """What fits on this machine's GPUs in place of defaults; on a CPU, and where it is not known, nothing.

    Raises:
        ValueError: the run cannot fit
    """
    if accelerator.device.type != "cuda":
        return Budgets(None, None)
    machine = machine_here(accelerator)

    def fit() -> Fit:
        try:
            return fit_run(recipe, path, sources, machine)
        except NotOnShapes as error:  # nothing is wrong with the run
            return Fit(Budgets(None, None), f"note: whether the run fits is not known: {first_line(error)}")

    found = run_together(fit)
    note(found.text)
    return found.budgets


def _write_recipe(recipe: Recipe, output_dir: Path) -> None:
    check_claim(output_dir)
    write_recipe(recipe, output_dir / RECIPE_FILE)


class _Parts:
    """What the stages are made from: the recipe's objective, sources and model, and their prompt builders."""

    def __init__(
        self,
        recipe: Recipe,
        objective: Objective,
        checked: Sequence[CheckedSources],
        adapter: Adapter,
        scorer: Scorer,
        accelerator: Accelerator,
        budgets: Budgets,
        limits: RowLimits | None,
    ):
        self.recipe = recipe
        self.with_budgets = with_budgets(recipe, budgets)  # for what runs the model; rows do not depend on a machine
        self.objective = objective
        self.checked = checked
        self.adapter = adapter
        self.scorer = scorer
        self.accelerator = accelerator
        self.tasks = {name: task for each in checked for name, task in each.tasks.items()}
        self.limits = limits
        lengths = {} if limits is None else limits.lengths
        self.room = training_room(recipe, adapter, {} if objective.imitates_gold else lengths)
        self.eval_room = evaluation_room(recipe, adapter, lengths)
        self.prompts = build_prompts(recipe, self.tasks, adapter, self.room)
        self.eval_prompts = build_prompts(recipe, self.tasks, adapter, self.eval_room)
        self.gold = GoldCompletions(adapter, self.tasks, recipe.prompt.answer_in)


def _build_objective(recipe: Recipe, accelerator: Accelerator) -> Objective:
    """The objective; refuses recipes whose keys for it, for the optimizer or for the engine are invalid."""
    objective = check_recipe(recipe)
    check_trackers(recipe.run.trackers)
    refuse_layout(recipe, sharding_of(accelerator))
    check_optimizer(recipe.update, accelerator.device)
    refuse_without_library(recipe.model)
    learning_rate(recipe.update, 0, recipe.run.steps)  # refuses options that the schedule does not accept
    if recipe.rollout.top_p < 1 or recipe.rollout.top_k:
        note("note: samples come from a truncated distribution, but log-probs from the full one")
    return objective


def _load_sources(
    recipe: Recipe, checkpoint: Path | None, known: Sequence[CheckedSources] | None
) -> Sequence[CheckedSources]:
    checked = known or load_all_sources(recipe)
    if checkpoint is not None:
        check_same_rows(checked[0], load_state(checkpoint).data)
    return checked


def _take_pins(
    recipe: Recipe, checkpoint: Path | None, checked: Sequence[CheckedSources], *, reads_weights: bool
) -> dict[str, str]:
    tasks = {name for each in checked for name in each.tasks}
    validation = [digest for each in checked[1:] for digest in each.digests]
    pins = take_pins(recipe, tasks, checkpoint, validation, reads_weights=reads_weights)
    if checkpoint is not None:
        check_pins(pins, load_state(checkpoint).pins)
    return pins


def _check_content(recipe: Recipe, path: str, checked: Sequence[CheckedSources], pins: dict[str, str]) -> None:
    """Refuses ranks with different files. Only the first one needs weights, in every layout, so none are compared."""
    model = run_together(lambda: find_model(path, recipe.model.revision))
    check_same_content(checked, pins, model, reads_weights=False)


def _place_weights(adapter: Adapter, accelerator: Accelerator) -> None:
    sharding = sharding_of(accelerator)
    needed = bytes_computed_in(adapter, is_rounded=sharding.computes_rounded)
    cost = run_together(lambda: check_whole_weights_fit(accelerator, needed))
    if cost is not None:
        note(
            f"{sharding.title}: a rollout gathers {cost.needed / 2**30:.2f} GiB of weights on every rank; "
            f"{cost.free / 2**30:.2f} GiB are free"
        )
    if not sharding.keeps_whole_weights:
        return  # each rank's share is moved to its device when the layout has been cut
    hand_out(adapter, accelerator)
    if sharding.computes_rounded:
        adapter.round_weights()
    adapter.to(accelerator.device)


def _check_rows(parts: _Parts) -> list[SourceReport]:
    recipe = parts.recipe
    gold = parts.gold if parts.objective.imitates_gold or parts.objective.has_discriminator else None
    train, validate = (parts.prompts, parts.room), (parts.eval_prompts, parts.eval_room)
    reports = check_all_rows(recipe, parts.checked, train, validate, gold, parts.limits)
    run_on_main(lambda: show_rows(reports, Path(recipe.run.output_dir)))
    return reports


def _step_of(checkpoint: Path | None) -> int:
    return 0 if checkpoint is None else load_state(checkpoint).step


def _build_stages(
    parts: _Parts, reports: Sequence[SourceReport], checkpoint: Path | None, pins: dict[str, str]
) -> Stages:
    recipe, checked, adapter = parts.recipe, parts.checked, parts.adapter
    stream = SampleStream(checked[0].sources, recipe.run.seed)
    stream.leave_out({row.id: row.cause for report in reports for row in report.left_out})
    engine = build_engines(parts.with_budgets.rollout, adapter, parts.accelerator)
    learned = build_parts(recipe, parts.objective, adapter, parts.gold, parts.accelerator)
    device = parts.accelerator.device
    prompts = PromptsAhead(parts.prompts, choose_workers(recipe.data.workers, device), device)
    evaluator = Evaluator(parts.eval_prompts, engine, parts.scorer, parts.tasks, recipe)
    learner = _build_learner(parts, learned)
    num_shrunk = sum(report.num_shrunk for report in reports)
    if checkpoint is None:
        progress = Progress(recipe.run, checked[0].digests, pins, shrunk_rows=num_shrunk)
    else:
        progress = run_together(partial(_resume, parts, checkpoint, learner, stream))
        run_together(partial(_restore_learned, learned, checkpoint))
    eval_rows = number_rows(checked[1]) if len(checked) > 1 else ()
    rollout = None if checkpoint is None else _restore_rollout(parts, checkpoint)
    log = run_together(lambda: _open_log(recipe, progress, parts.accelerator))
    collector = Collector(
        recipe, parts.objective, stream, prompts, engine, parts.gold, parts.scorer, parts.accelerator,
        learned.all, log.show_phase,
    )  # fmt: skip
    return Stages(
        adapter, parts.tasks, stream, prompts, collector, learner, evaluator, eval_rows, learned.gold, rollout,
        progress, log, Record(recipe, parts.objective, progress.step, parts.accelerator.is_main_process),
    )  # fmt: skip


def _build_learner(parts: _Parts, learned: LearnedParts) -> Learner:
    recipe, accelerator = parts.recipe, parts.accelerator
    if accelerator.is_main_process:
        show_trained_parts(parts.adapter, recipe.model, recipe.update)
    update = parts.with_budgets.update
    learner = Learner(recipe, parts.objective, parts.adapter, accelerator, learned.gradient, learned.initial, update)
    if accelerator.num_processes > 1:
        title, layout = sharding_of(accelerator).title, type(learner.layout).__name__
        note(f"{accelerator.num_processes} ranks, {title}, {layout}")
    return learner


def _resume(parts: _Parts, checkpoint: Path, learner: Learner, stream: SampleStream) -> Progress:
    """Restores the optimizer, the stream and the counts from the checkpoint."""
    recipe = parts.recipe
    load_optimizer(checkpoint, parts.adapter, learner.optimizer, parts.accelerator)
    progress = Progress.after(load_state(checkpoint), recipe.run)
    stream.restore(progress.stream)
    left_out = f", {len(stream.left_out)} rows left out" if stream.left_out else ""
    shrunk = f", {progress.shrunk_rows} scaled down" if progress.shrunk_rows else ""
    note(f"resuming {recipe.run.output_dir} after step {progress.step}{left_out}{shrunk}")
    if text := describe_extension(recipe, checkpoint, progress.step):
        note(text)
    for name, (then, now) in changed_versions(checkpoint).items():
        note(f"note: the run had {name} {then} and continues with {now}; its numbers may differ")
    if progress.is_over:
        ended = "by run.stop_when" if progress.all_done_step is not None else "at run.steps; raise it to continue"
        note(f"{recipe.run.output_dir} has ended {ended}")
    return progress


def _restore_rollout(parts: _Parts, checkpoint: Path) -> Rollout | None:
    folder, sources, ranks = checkpoint / STATE_FOLDER, parts.checked[0].sources, parts.accelerator
    return run_together(lambda: read_rollout(folder, sources, parts.prompts, ranks.process_index, ranks.num_processes))


def _restore_learned(learned: LearnedParts, checkpoint: Path) -> None:
    if learned.gold is None:
        return
    path = checkpoint / STATE_FOLDER / LEARNED_FILE
    try:
        learned.gold.restore(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} holds no state of the discriminator ({first_line(error)}); restore it") from error


def _open_log(recipe: Recipe, progress: Progress, accelerator: Accelerator) -> RunLog:
    run = recipe.run
    is_silent = not accelerator.is_main_process
    return RunLog(Path(run.output_dir), run.trackers, progress.step, run.steps, is_silent, recipe.to_plain())


def _restore_random_state(checkpoint: Path, rank: int) -> None:
    if not load_random_state(checkpoint, rank):
        say(f"note: rank {rank} starts with fresh random states: the run had fewer ranks")
