"""Completions you already have -> the evaluation that a benchmark reports, without a model."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

from gpg_vl.config import RewardsConfig
from gpg_vl.evaluation.evaluate_model import Evaluation
from gpg_vl.evaluation.evaluator import ScoredAnswers, make_prediction
from gpg_vl.evaluation.folder import claim_evaluation
from gpg_vl.evaluation.predictions import Prediction
from gpg_vl.evaluation.rows import EvaluationRow
from gpg_vl.evaluation.score_file import ScoredCompletion, StoredCompletion, read_predictions, score_completions
from gpg_vl.evaluation.settings import scoring_versions
from gpg_vl.processes.interrupts import INTERRUPTS
from gpg_vl.rewards.pool import MetricJob, ScoringPool
from gpg_vl.rewards.published import measure_published
from gpg_vl.tasks import load_task
from gpg_vl.tasks.base import Task
from gpg_vl.user_code import absolute_spec


def evaluate_stored(
    completions: Path, benchmark: str, task_name: str, split: str, out: Path, category: str
) -> Evaluation:
    """Scores a file of completions, or a published result file, as ``gpg-vl score`` reads it.

    Raises:
        ValueError: the file cannot be read, or ``out`` holds another evaluation
    """
    start = time.perf_counter()
    task = load_task(task_name)
    stored = read_predictions(completions, task_name, task)
    rows = [
        EvaluationRow(n, split, each.sample, str(each.sample.meta.get(category) or "")) for n, each in enumerate(stored)
    ]
    settings = {
        "benchmark": benchmark,
        "split": split,
        "completions_sha256": hashlib.sha256(completions.read_bytes()).hexdigest(),
        "versions": scoring_versions(),
    }
    limits = RewardsConfig()
    pool = ScoringPool(limits.timeout_s, limits.memory_mb)
    with claim_evaluation(out) as folder, INTERRUPTS.raising(), pool:
        done = folder.resume(settings, rows, num_samples=1)
        todo = sorted(set(range(len(rows))) - {prediction.row for prediction in done})
        scored = _predict([rows[n] for n in todo], [stored[n] for n in todo], pool, task, task_name)
        with INTERRUPTS.deferred():
            folder.append(scored)
    predictions = sorted([*done, *scored], key=lambda prediction: prediction.row)
    run = {"completions": str(completions), "seconds": round(time.perf_counter() - start, 1)}
    return Evaluation(rows, predictions, {task_name: task}, [], settings, run, folder)


def _predict(
    rows: Sequence[EvaluationRow], stored: Sequence[StoredCompletion], pool: ScoringPool, task: Task, task_name: str
) -> list[Prediction]:
    """Scores strictly and also by the published metric, if there is one."""
    scored = score_completions(pool, task, task_name, stored)
    legacy: list[tuple[float | None, ...] | None] = [None] * len(rows)
    if task.legacy is not None:
        code = absolute_spec(task_name)
        jobs = [MetricJob(code, each.sample, (each.view,), (each.completion,)) for each in stored]
        legacy = [tuple(values) for values in measure_published(pool, jobs)]
    return [
        make_prediction(row, task, _answers(each, values))
        for row, each, values in zip(rows, scored, legacy, strict=True)
    ]


def _answers(scored: ScoredCompletion, legacy: tuple[float | None, ...] | None) -> ScoredAnswers:
    """The completion as if from an engine, but without tokens."""
    stored = scored.prediction
    return ScoredAnswers(
        views=(stored.view,),
        texts=(stored.completion,),
        num_tokens=(0,),
        finished=(True,),
        rewards=(scored.reward,),
        legacy=legacy,
    )
