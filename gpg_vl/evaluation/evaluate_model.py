"""``gpg-vl eval``: a recipe's model on a recipe's ``data.eval``, scores and predictions written to a folder.

Started under several ranks (``accelerate launch``, ``torchrun``), each evaluates its share.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from gpg_vl.config import Recipe
from gpg_vl.evaluation.evaluator import PROMPTS_AT_ONCE, Evaluator, refuse_strangers
from gpg_vl.evaluation.folder import EvaluationFolder, claim_evaluation
from gpg_vl.evaluation.predictions import Prediction
from gpg_vl.evaluation.rows import LazyRows, Row, number_rows
from gpg_vl.evaluation.scores import TaskScore, summarise_scores
from gpg_vl.models import load_adapter
from gpg_vl.models.qwen_vl import QwenVLAdapter
from gpg_vl.preflight.rows import check_rows, list_rows
from gpg_vl.preflight.sources import CheckedSources, load_sources
from gpg_vl.processes.interrupts import Interrupted, deferred_interrupts
from gpg_vl.processes.rank_watch import ranks_end_together
from gpg_vl.processes.ranks import end_ranks, run_on_main, run_together
from gpg_vl.prompts.room import build_prompts, evaluation_room
from gpg_vl.rewards.scorer import Scorer
from gpg_vl.rollout import build_engine
from gpg_vl.tasks.base import Task

VERSIONS_OF = ("gpg-vl", "torch", "transformers", "qwen-vl-utils", "math-verify")


@dataclass(frozen=True)
class Evaluation:
    """Every prediction of an evaluation, in the order of the rows, and what it was made with."""

    rows: Sequence[Row]
    predictions: list[Prediction]
    tasks: dict[str, Task]
    without_image: list[str]  # file, row and reason
    settings: dict[str, Any]  # all that decides a prediction
    run: dict[str, Any]  # the rest: path of the model, ranks, seconds ...
    folder: EvaluationFolder | None  # of the first rank, where there is one
    dropped: list[Prediction] = field(
        default_factory=list
    )  # wrong ones, for published rows that are not among the rows

    @property
    def counted(self) -> list[Prediction]:
        """What a score is over."""
        return [*self.predictions, *self.dropped]

    def write(self, scores: dict[str, Any]) -> None:
        """``results.json``: the scores, and every setting."""
        if self.folder is not None:
            images = {"rows_without_image": self.without_image}
            self.folder.write_results({**scores, **images, "settings": self.settings, "run": self.run})


def evaluate_model(recipe: Recipe, out: Path | None = None, category: str = "category") -> dict[str, TaskScore]:
    """Scores ``recipe.model`` on ``recipe.data.eval`` with the recipe's prompts, rewards and sampling.

    Writes ``results.json`` (scores with every setting) and ``predictions.jsonl`` into ``out``, if given; goes on from
    the predictions that a killed evaluation left there.

    Args:
        category: the column that scores are reported by as well

    Raises:
        ValueError: recipe, rows, model or folder cannot be used
    """
    evaluation = run_evaluation(recipe, out, category=category)
    scores = summarise_scores(evaluation.predictions, evaluation.tasks)
    evaluation.write({"tasks": {task: score.to_dict() for task, score in scores.items()}})
    return scores


def run_evaluation(
    recipe: Recipe,
    out: Path | None,
    benchmark: str | None = None,
    splits: Sequence[str] = (),
    category: str = "category",
) -> Evaluation:
    """The predictions of ``evaluate_model``, on every rank. Several ranks part when it ends: a process evaluates once.

    Args:
        benchmark: name that the folder's predictions belong to
        splits: name of each entry of ``data.eval``
        category: the column that scores are reported by as well
    """
    PartialState(cpu=not torch.cuda.is_available())  # takes up the processes that torchrun started
    with ranks_end_together(), ExitStack() as stack:
        folders: list[EvaluationFolder] = []  # of the first rank alone
        if out is not None:
            run_on_main(lambda: folders.append(stack.enter_context(claim_evaluation(out))))
        scorer = stack.enter_context(Scorer(recipe.rewards))
        checked = run_together(lambda: load_sources(recipe.data.eval, recipe, "data.eval", needs_images=False))
        scorer.start()
        adapter = run_together(lambda: load_adapter(recipe.model))
        adapter.model.to(PartialState().device)
        run = _Run(recipe, next(iter(folders), None), benchmark, checked, adapter, scorer)
        evaluation = run.run(number_rows(checked, splits, category))
    end_ranks()
    return evaluation


class _Run:
    def __init__(
        self,
        recipe: Recipe,
        folder: EvaluationFolder | None,
        benchmark: str | None,
        checked: CheckedSources,
        adapter: QwenVLAdapter,
        scorer: Scorer,
    ):
        self._recipe = recipe
        self._folder = folder
        self._benchmark = benchmark
        self._checked = checked
        self._adapter = adapter
        self._room = evaluation_room(recipe, adapter)
        self._prompts = build_prompts(recipe, checked.tasks, adapter, self._room)
        engine = build_engine(recipe.rollout, adapter)
        self._evaluator = Evaluator(
            self._prompts, engine, scorer, checked.tasks, recipe.evaluation, self._room.max_new_tokens,
            recipe.run.seed, with_legacy=True,
        )  # fmt: skip

    def run(self, rows: LazyRows) -> Evaluation:
        start = time.perf_counter()
        without_image = self._check_rows(rows)
        settings = run_on_main(lambda: self._settings(rows))
        done = run_on_main(lambda: self._resume(settings, rows))
        predictions = {prediction.row: prediction for prediction in done}
        todo = rows.without(predictions)
        progress = _Progress(len(rows), len(predictions))
        try:
            for part in self._evaluator.run(todo, PROMPTS_AT_ONCE):
                run_on_main(partial(self._keep, part))
                predictions |= {prediction.row: prediction for prediction in part}
                progress.show(len(predictions))
        except Interrupted:
            progress.stop(len(predictions), self._folder is not None)
            raise
        run = self._describe_run(time.perf_counter() - start, len(done))
        ordered = [predictions[number] for number in range(len(rows))]
        return Evaluation(rows, ordered, self._checked.tasks, without_image, settings, run, self._folder)

    def _resume(self, settings: dict[str, Any], rows: LazyRows) -> list[Prediction]:
        """What an earlier process left in the folder."""
        if self._folder is None:
            return []
        done = self._folder.resume(settings)
        refuse_strangers(done, rows, self._recipe.evaluation.num_samples)
        if done:
            print(f"going on after {len(done)} of {len(rows)} predictions", file=sys.stderr)
        return done

    def _keep(self, part: Sequence[Prediction]) -> None:
        if self._folder is not None:
            with deferred_interrupts():
                self._folder.append(part)

    def _check_rows(self, rows: Sequence[Row]) -> list[str]:
        """Every row against the model; the rows whose image cannot be opened are said and count as wrong."""
        reports = check_rows(self._checked.sources, self._prompts, self._room, ["bad_image"])
        without = [row.text for report in reports for row in report.left_out]
        if len(without) == len(rows):
            raise ValueError(f"no row has an image that can be opened; the first: {without[0]}")
        if without and PartialState().is_main_process:
            print(f"{len(without)} of {len(rows)} rows count as wrong, for want of an image:", file=sys.stderr)
            print(*list_rows(without, "results.json"), sep="\n", file=sys.stderr)
        return without

    def _settings(self, rows: Sequence[Row]) -> dict[str, Any]:
        recipe, model = self._recipe, self._recipe.model
        return {
            "benchmark": self._benchmark,
            "rows": {"num": len(rows), "sha256": _hash_rows(rows)},
            "model": {
                "weights_sha256": hash_weights(self._adapter.model),
                **{key: getattr(model, key) for key in ("dtype", "attention", "min_pixels", "max_pixels")},
            },
            "prompt": {**asdict(recipe.prompt), "first_row": self._first_prompt(rows)},
            "rewards": {**asdict(recipe.rewards), "code": self._hash_own_code()},
            "sampling": {
                "engine": recipe.rollout.engine,
                "num_samples": recipe.evaluation.num_samples,
                **asdict(self._evaluator.sampling),
                "seed": recipe.run.seed,
            },
            "versions": {name: version(name) for name in VERSIONS_OF},
        }

    def _first_prompt(self, rows: Sequence[Row]) -> str | None:
        """The first prompt that can be made, as the model reads it."""
        for row in rows:
            try:
                return self._prompts.build(row.sample).text
            except ValueError:
                continue
        return None

    def _hash_own_code(self) -> dict[str, str]:
        """Of the tasks and reward functions that are files of the user's own."""
        specs = [*self._checked.tasks, *self._recipe.rewards.functions]
        files = {spec: Path(spec.rpartition(":")[0]) for spec in specs}
        return {s: hashlib.sha256(f.read_bytes()).hexdigest() for s, f in files.items() if f.suffix == ".py"}

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


def hash_weights(model: torch.nn.Module) -> str:
    """Of every parameter and buffer that is saved, by name: the same for the same weights in any file layout."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _hash_rows(rows: Iterable[Row]) -> str:
    """Of what is asked, shown and expected; of an image that is a file, its name and size stand for it."""
    digest = hashlib.sha256()
    for row in rows:
        sample = row.sample
        digest.update(repr((row.split, row.category, sample.task, sample.question, sample.answer)).encode())
        for image in sample.images:
            digest.update(image if isinstance(image, bytes) else _describe_file(Path(image)))
    return digest.hexdigest()


def _describe_file(path: Path) -> bytes:
    return f"{path.name} {path.stat().st_size if path.is_file() else None}".encode()


class _Progress:
    """One line on standard error: done, pace, time to go. Rewritten on a terminal, else a line every half a minute."""

    def __init__(self, total: int, done: int):
        self._total, self._done_before = total, done
        self._start = self._shown = time.monotonic()
        self._is_terminal = sys.stderr.isatty()

    def show(self, done: int) -> None:
        now, is_last = time.monotonic(), done == self._total
        if not PartialState().is_main_process or not (self._is_terminal or is_last or now - self._shown > 30):
            return
        self._shown = now
        pace = (done - self._done_before) / max(now - self._start, 1e-9)
        to_go = f"{(self._total - done) / pace:.0f} s to go" if not is_last else f"{now - self._start:.0f} s"
        end = "\n" if is_last or not self._is_terminal else ""
        lead = "\r" if self._is_terminal else ""
        print(
            f"{lead}{done}/{self._total} prompts, {pace:.2f} a second, {to_go}   ", end=end, file=sys.stderr, flush=True
        )

    def stop(self, done: int, is_kept: bool) -> None:
        """Says what an interrupted evaluation leaves."""
        if PartialState().is_main_process:
            what = "the same command goes on from there" if is_kept else "without --out nothing is kept"
            print(f"\ninterrupted after {done} of {self._total} prompts; {what}", file=sys.stderr, flush=True)
