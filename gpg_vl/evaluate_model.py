"""``gpg-vl eval``: a recipe's model on a recipe's ``data.eval``, scores and predictions written to a folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from gpg_vl.config import Recipe
from gpg_vl.evaluate import Evaluator, TaskScore, measure_published, summarise_scores
from gpg_vl.models import load_adapter
from gpg_vl.prepare import check_rows, context_limit, load_sources
from gpg_vl.prompting import PromptBuilder
from gpg_vl.records import ScoredGroup
from gpg_vl.rollout import HfEngine
from gpg_vl.scoring import Scorer


def evaluate_model(recipe: Recipe, out: Path | None = None) -> dict[str, TaskScore]:
    """Scores ``recipe.model`` on ``recipe.data.eval`` with the recipe's prompts, rewards and sampling.

    Writes ``results.json`` (scores with every setting) and ``predictions.jsonl`` into ``out``, if given.
    """
    if out is not None:
        _open_folder(out)
    with Scorer(recipe.rewards) as scorer:
        return _evaluate(recipe, out, scorer)


def _evaluate(recipe: Recipe, out: Path | None, scorer: Scorer) -> dict[str, TaskScore]:
    checked = load_sources(recipe.data.eval, recipe, "data.eval")
    scorer.start()
    adapter = load_adapter(recipe.model)
    adapter.model.to("cuda" if torch.cuda.is_available() else "cpu")
    prompts = PromptBuilder(adapter, checked.tasks, recipe.prompt, recipe.data.image_hosts)
    max_new_tokens = recipe.evaluation.max_new_tokens or recipe.rollout.max_new_tokens
    check_rows(checked, prompts, max_new_tokens, context_limit(adapter))
    engine = HfEngine(adapter, recipe.rollout.tokens_per_batch)
    evaluator = Evaluator(prompts, engine, scorer, recipe.evaluation, max_new_tokens, recipe.run.seed)
    samples = [sample for source in checked.sources for sample in source.samples]
    groups = evaluator.run(samples, on_progress=_show_progress)
    scores = summarise_scores(groups, checked.tasks, measure_published(groups, checked.tasks, scorer))
    if out is not None:
        _write(out, recipe, scores, groups)
    return scores


def _show_progress(done: int, total: int) -> None:
    print(f"\r{done}/{total} prompts", end="\n" if done == total else "", file=sys.stderr, flush=True)


def _open_folder(out: Path) -> None:
    """Refuses a folder that could not be written, before the work."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "predictions.jsonl").open("a").close()
    except OSError as error:
        raise ValueError(f"--out: cannot write to {out} ({error.strerror}); choose another folder") from error


def _write(out: Path, recipe: Recipe, scores: dict[str, TaskScore], groups: Sequence[ScoredGroup]) -> None:
    with (out / "predictions.jsonl").open("w") as file:
        for group in groups:
            file.write(json.dumps(_prediction(group), ensure_ascii=False) + "\n")
    results = {
        "model": recipe.model.path,
        "tasks": {task: score.to_dict() for task, score in scores.items()},
        "recipe": recipe.to_plain(),
        "versions": {name: version(name) for name in ("gpg-vl", "torch", "transformers", "qwen-vl-utils")},
    }
    (out / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False))


def _prediction(group: ScoredGroup) -> dict[str, Any]:
    sample = group.prompt.sample
    return {
        "id": sample.id,
        "task": sample.task,
        "question": sample.question,
        "answer": sample.answer,
        "completions": [c.text for c in group.completions],
        "rewards": [r.total for r in group.rewards],
        "parts": [r.parts for r in group.rewards],
        "status": [r.status for r in group.rewards],
    }
