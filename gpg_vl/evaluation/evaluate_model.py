"""``gpg-vl eval``: evaluates a recipe's model on its ``data.eval``; writes scores and predictions to a folder.

If started on several ranks (``accelerate launch``, ``torchrun``), each evaluates its share.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from gpg_vl.config import Recipe
from gpg_vl.evaluation.evaluator import PROMPTS_AT_ONCE, Evaluator
from gpg_vl.evaluation.folder import EvaluationFolder, claim_evaluation
from gpg_vl.evaluation.predictions import Prediction
from gpg_vl.evaluation.progress_line import ProgressLine
from gpg_vl.evaluation.rows import EvaluationRow, LazyRows, number_rows
from gpg_vl.evaluation.scores import TaskScore, summarise_scores
from gpg_vl.evaluation.settings import Settings, add_model, settings_without_model
from gpg_vl.models import load_adapter
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.device import choose_device, describe_device
from gpg_vl.preflight.agreement import check_same_content, check_same_recipe, find_model
from gpg_vl.preflight.outputs import refuse_inputs
from gpg_vl.preflight.rows import check_rows, list_rows
from gpg_vl.preflight.sources import CheckedSources
from gpg_vl.preflight.start import load_evaluation
from gpg_vl.preflight.trial import try_model
from gpg_vl.processes.interrupts import INTERRUPTS, Interrupted
from gpg_vl.processes.rank_watch import ranks_end_together
from gpg_vl.processes.ranks import RankError, end_ranks, is_main_rank, note, run_on_main, run_together
from gpg_vl.prompts.length import build_prompts, evaluation_room
from gpg_vl.rewards.scorer import Scorer
from gpg_vl.rollout import build_engines
from gpg_vl.rollout.engine import RolloutEngine
from gpg_vl.rollout.limits import RowLimits, find_limits
from gpg_vl.screen import say
from gpg_vl.tasks.base import Task


@dataclass(frozen=True)
class Evaluation:
    """Every prediction of an evaluation, in row order, and what it was made with."""

    rows: Sequence[EvaluationRow]
    predictions: list[Prediction]
    tasks: dict[str, Task]
    without_image: list[str]  # file, row and reason
    settings: dict[str, Any]  # everything that determines a prediction
    run: dict[str, Any]  # the rest: path of the model, ranks, seconds ...
    folder: EvaluationFolder | None  # only on the first rank, and only with --out
    dropped: list[Prediction] = field(
        default_factory=list
    )  # wrong predictions for published rows that are missing from the rows

    @property
    def counted(self) -> list[Prediction]:
        """The predictions that a score covers."""
        return [*self.predictions, *self.dropped]

    def write(self, scores: dict[str, Any]) -> None:
        """``results.json``: the scores, and every setting."""
        if self.folder is not None:
            images = {"rows_without_image": self.without_image}
            self.folder.write_results({**scores, **images, "settings": self.settings, "run": self.run})


def evaluate_model(
    recipe: Recipe, out: Path | None = None, category: str = "category", checked: CheckedSources | None = None
) -> dict[str, TaskScore]:
    """Scores ``recipe.model`` on ``recipe.data.eval`` with the recipe's prompts, rewards and sampling.

    Writes ``results.json`` (scores with every setting) and ``predictions.jsonl`` into ``out``, if given. Resumes from
    the predictions that an interrupted evaluation left there.

    Args:
        category: column by which scores are also reported
        checked: the sources, where they have been checked before

    Raises:
        ValueError: recipe, rows, model or folder cannot be used
    """
    evaluation = run_evaluation(recipe, out, category=category, checked=checked)
    scores = summarise_scores(evaluation.predictions, evaluation.tasks)
    evaluation.write({"tasks": {task: score.to_dict() for task, score in scores.items()}})
    return scores


def run_evaluation(
    recipe: Recipe,
    out: Path | None,
    benchmark: str | None = None,
    splits: Sequence[str] = (),
    category: str = "category",
    checked: CheckedSources | None = None,
) -> Evaluation:
    """The predictions of ``evaluate_model``, on every rank. Ranks disconnect at the end: a process evaluates only once.

    Args:
        benchmark: name of the benchmark that the folder's predictions belong to
        splits: name of each entry of ``data.eval``
        category: column by which scores are also reported
        checked: the sources, where they have been checked before
    """
    PartialState(cpu=choose_device(recipe.model).type == "cpu")  # joins the processes that torchrun started
    note(describe_device(PartialState().device, recipe.model))
    with ranks_end_together(), ExitStack() as stack:
        check_same_recipe(recipe)
        folders: list[EvaluationFolder] = []  # on the first rank only
        if out is not None:
            run_on_main(lambda: refuse_inputs("--out", out, recipe))
            run_on_main(lambda: folders.append(stack.enter_context(claim_evaluation(out))))
        scorer = stack.enter_context(Scorer(recipe.rewards))
        sources = checked or run_together(lambda: load_evaluation(recipe))
        model = run_together(lambda: find_model(recipe.model.path, recipe.model.revision))
        check_same_content([sources], {}, model, ["data.eval"])
        rows = number_rows(sources, splits, category)
        known = run_on_main(lambda: _known_settings(recipe, benchmark, rows, sources, folders))
        scorer.start()
        run_on_main(lambda: try_model(recipe, recipe.model.path, [sources], scorer))
        adapter = run_together(lambda: load_adapter(recipe.model))
        adapter.round_weights()
        adapter.to(PartialState().device)
        engine = build_engines(recipe.rollout, adapter)
        limits = find_limits(recipe.rollout, adapter, of_all=recipe.data.on_long_prompt == "shrink")
        run = run_together(
            lambda: _ModelEvaluation(recipe, next(iter(folders), None), sources, adapter, scorer, engine, limits)
        )
        evaluation = run.run(rows, known)
    end_ranks()
    return evaluation


def _known_settings(
    recipe: Recipe,
    benchmark: str | None,
    rows: LazyRows,
    sources: CheckedSources,
    folders: Sequence[EvaluationFolder],
) -> Settings:
    """The settings besides the model's; a folder that holds another evaluation is refused before one is loaded."""
    settings = settings_without_model(recipe, benchmark, rows, sources.tasks)
    for folder in folders:
        folder.refuse_other(settings)
    return settings


class _ModelEvaluation:
    def __init__(
        self,
        recipe: Recipe,
        folder: EvaluationFolder | None,
        checked: CheckedSources,
        adapter: Adapter,
        scorer: Scorer,
        engine: RolloutEngine,
        limits: RowLimits | None,
    ):
        self._recipe = recipe
        self._folder = folder
        self._checked = checked
        self._adapter = adapter
        self._limits = limits
        self._room = evaluation_room(recipe, adapter, None if limits is None else limits.lengths)
        self._prompts = build_prompts(recipe, checked.tasks, adapter, self._room)
        self._evaluator = Evaluator(self._prompts, engine, scorer, checked.tasks, recipe, with_legacy=True)

    def run(self, rows: LazyRows, known: Settings) -> Evaluation:
        """
        Args:
            known: what determines a prediction besides the model
        """
        start = time.perf_counter()
        without_image = self._check_rows(rows)
        settings = run_on_main(lambda: add_model(known, self._adapter.model, self._prompts, rows))
        done = run_on_main(lambda: self._resume(settings, rows))
        ordered = self._predict(rows, done)
        run = self._describe_run(time.perf_counter() - start, len(done))
        return Evaluation(rows, ordered, self._checked.tasks, without_image, settings, run, self._folder)

    def _predict(self, rows: LazyRows, done: Sequence[Prediction]) -> list[Prediction]:
        """All predictions in row order: those already done, and the others. All ranks call it together."""
        predictions = {prediction.row: prediction for prediction in done}
        todo = rows.without(predictions)
        try:
            with ProgressLine("evaluated", "prompts", len(rows), len(done)) as progress:
                for part in self._evaluator.run(todo, PROMPTS_AT_ONCE):
                    run_on_main(partial(self._keep, part))
                    predictions |= {prediction.row: prediction for prediction in part}
                    if is_main_rank():
                        progress.show(len(predictions))
        except Interrupted:
            what = "without --out, nothing is kept"
            if self._folder is not None:
                what = "the same command continues from there"
            note(f"interrupted after {len(predictions)} of {len(rows)} prompts; {what}")
            raise
        return [predictions[number] for number in range(len(rows))]

    def _resume(self, settings: Settings, rows: LazyRows) -> list[Prediction]:
        """The predictions that an earlier process left in the folder."""
        if self._folder is None:
            return []
        done = self._folder.resume(settings, rows, self._recipe.evaluation.num_samples)
        if done:
            say(f"resuming after {len(done)} of {len(rows)} predictions")
        return done

    def _keep(self, part: Sequence[Prediction]) -> None:
        if self._folder is not None:
            with INTERRUPTS.deferred():
                self._folder.append(part)

    def _check_rows(self, rows: LazyRows) -> list[str]:
        """Checks every row against the model. Rows whose image cannot be opened are listed and count as wrong."""
        reports = check_rows(self._checked.sources, self._prompts, self._room, ["bad_image"], limits=self._limits)
        without = [row.text for report in reports for row in report.left_out]
        if len(without) == len(rows):
            raise RankError(f"no row has an image that can be opened; the first: {without[0]}")
        if without:
            note(f"{len(without)} of {len(rows)} rows count as wrong because their image cannot be opened:")
            note("\n".join(list_rows(without, "results.json")))
        return without

    def _describe_run(self, seconds: float, num_resumed: int) -> dict[str, Any]:
        state = PartialState()
        on_gpu = state.device.type == "cuda"
        return {
            "model": self._recipe.model.path,
            "recipe": self._recipe.to_plain(),
            "ranks": state.num_processes,
            "device": torch.cuda.get_device_name(state.device) if on_gpu else state.device.type,
            "seconds": round(seconds, 1),
            "resumed_after": num_resumed,
        }
