"""Completions that are at hand -> the evaluation that a benchmark reports, without a model."""

from __future__ import annotations

import hashlib
import time
from importlib.metadata import version
from pathlib import Path

import torch

from gpg_vl.config import RewardsConfig
from gpg_vl.evaluation.evaluate_model import VERSIONS_OF, Evaluation
from gpg_vl.evaluation.evaluator import refuse_strangers, score_groups
from gpg_vl.evaluation.folder import claim_evaluation
from gpg_vl.evaluation.rows import Row
from gpg_vl.evaluation.score_file import StoredCompletion, read_predictions
from gpg_vl.processes.interrupts import deferred_interrupts, interrupts_raise
from gpg_vl.records import Completion, Prompt, RolloutGroup
from gpg_vl.rewards.scorer import Scorer
from gpg_vl.tasks import load_task


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
    rows = [Row(n, split, each.sample, str(each.sample.meta.get(category) or "")) for n, each in enumerate(stored)]
    settings = {
        "benchmark": benchmark,
        "split": split,
        "completions_sha256": hashlib.sha256(completions.read_bytes()).hexdigest(),
        "versions": {name: version(name) for name in VERSIONS_OF},
    }
    with claim_evaluation(out) as folder, interrupts_raise(), Scorer(RewardsConfig()) as scorer:
        done = folder.resume(settings)
        refuse_strangers(done, rows, num_samples=1)
        todo = sorted(set(range(len(rows))) - {prediction.row for prediction in done})
        groups = [_group(stored[n]) for n in todo]
        scored = score_groups([rows[n] for n in todo], groups, scorer, {task_name: task}, with_legacy=True)
        with deferred_interrupts():
            folder.append(scored)
    predictions = sorted([*done, *scored], key=lambda prediction: prediction.row)
    run = {"completions": str(completions), "seconds": round(time.perf_counter() - start, 1)}
    return Evaluation(rows, predictions, {task_name: task}, [], settings, run, folder)


def _group(stored: StoredCompletion) -> RolloutGroup:
    """The completion as an engine would have given it, without tokens."""
    prompt = Prompt(stored.sample, "", (), (), torch.empty(3, 0, dtype=torch.long), None, None, (stored.view,))
    return RolloutGroup(prompt, (Completion((), stored.completion, finished=True),))
