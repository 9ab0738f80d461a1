"""``gpg-vl eval``: a recipe's model on a recipe's ``data.eval``, scores and predictions written to a folder.

Started under several ranks (``accelerate launch``, ``torchrun``), each evaluates its share.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from gpg_vl.config import Recipe
from gpg_vl.evaluate import PROMPTS_AT_ONCE, Evaluator, Row, number_rows
from gpg_vl.evaluation_folder import EvaluationFolder, probe_folder
from gpg_vl.models import load_adapter
from gpg_vl.models.qwen_vl import QwenVLAdapter
from gpg_vl.predictions import Prediction
from gpg_vl.prepare import CheckedSources, check_rows, context_limit, load_sources
from gpg_vl.prompting import PromptBuilder
from gpg_vl.rollout import HfEngine
from gpg_vl.scores import TaskScore, summarise_scores
from gpg_vl.scoring import Scorer
from gpg_vl.tasks.base import Task

VERSIONS_OF = ("gpg-vl", "torch", "transformers", "qwen-vl-utils", "math-verify")
_LISTED = 20  # rows without an image that are printed
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Evaluation:
    """Every prediction of an evaluation, in the order of the rows, and what it was made with."""

    rows: list[Row]
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
    """The predictions of ``evaluate_model``, on every rank.

    Args:
        benchmark: name that the folder's predictions belong to
        splits: name of each entry of ``data.eval``
        category: the column that scores are reported by as well
    """
    PartialState(cpu=not torch.cuda.is_available())  # takes up the processes that torchrun started
    if out is not None:
        on_first_rank(lambda: probe_folder(out))
    with Scorer(recipe.rewards) as scorer:
        checked = load_sources(recipe.data.eval, recipe, "data.eval", needs_images=False)
        scorer.start()
        adapter = load_adapter(recipe.model)
        adapter.model.to(PartialState().device)
        return _Run(recipe, out, benchmark, checked, adapter, scorer).run(number_rows(checked, splits, category))


class _Run:
    def __init__(
        self,
        recipe: Recipe,
        out: Path | None,
        benchmark: str | None,
        checked: CheckedSources,
        adapter: QwenVLAdapter,
        scorer: Scorer,
    ):
        self._recipe = recipe
        self._out = out
        self._benchmark = benchmark
        self._checked = checked
        self._adapter = adapter
        self._prompts = PromptBuilder(adapter, checked.tasks, recipe.prompt, recipe.data.image_hosts)
        self._max_new_tokens = recipe.evaluation.max_new_tokens or recipe.rollout.max_new_tokens
        engine = HfEngine(adapter, recipe.rollout.tokens_per_batch)
        self._evaluator = Evaluator(
            self._prompts, engine, scorer, checked.tasks, recipe.evaluation, self._max_new_tokens, recipe.run.seed,
            with_legacy=True,
        )  # fmt: skip

    def run(self, rows: list[Row]) -> Evaluation:
        start = time.perf_counter()
        without_image = self._check_rows(rows)
        settings = on_first_rank(lambda: self._settings(rows))
        folder, done = self._open(settings)
        predictions = {prediction.row: prediction for prediction in done}
        todo = [row for row in rows if row.number not in predictions]
        progress = _Progress(len(rows), len(predictions))
        for part in self._evaluator.run(todo, PROMPTS_AT_ONCE):
            if folder is not None:
                folder.append(part)
            predictions |= {prediction.row: prediction for prediction in part}
            progress.show(len(predictions))
        run = self._describe_run(time.perf_counter() - start, len(done))
        ordered = [predictions[row.number] for row in rows]
        return Evaluation(rows, ordered, self._checked.tasks, without_image, settings, run, folder)

    def _check_rows(self, rows: Sequence[Row]) -> list[str]:
        """Every row against the model; the rows whose image cannot be opened are said and count as wrong."""
        limits = context_limit(self._adapter)
        without = check_rows(self._checked, self._prompts, self._max_new_tokens, limits, needs_images=False)
        if len(without) == len(rows):
            raise ValueError(f"no row has an image that can be opened; the first: {without[0]}")
        if without and PartialState().is_main_process:
            print(f"{len(without)} of {len(rows)} rows count as wrong, for want of an image:", file=sys.stderr)
            print("\n".join(f"  {line}" for line in without[:_LISTED]), file=sys.stderr)
            if len(without) > _LISTED:
                print(f"  and {len(without) - _LISTED} more, listed in results.json", file=sys.stderr)
        return without

    def _open(self, settings: dict[str, Any]) -> tuple[EvaluationFolder | None, list[Prediction]]:
        """The folder, on the first rank, and on all ranks what an earlier process left in it."""
        if self._out is None:
            return None, []
        opened: list[EvaluationFolder] = []
        out = self._out

        def read() -> list[Prediction]:
            opened.append(EvaluationFolder(out, settings))
            return opened[0].predictions

        done = on_first_rank(read)
        if done and opened:
            print(f"going on after {len(done)} predictions in {out}", file=sys.stderr)
        return (opened[0] if opened else None), done

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
                "num_samples": recipe.evaluation.num_samples,
                "temperature": recipe.evaluation.temperature,
                "max_new_tokens": self._max_new_tokens,
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


def on_first_rank(work: Callable[[], _Result]) -> _Result:
    """The result of work that only the first rank does, on every rank; what it raises as ``ValueError`` all raise."""
    result: list[Any] = [None, None]
    if PartialState().is_main_process:
        try:
            result = [work(), None]
        except ValueError as error:
            result = [None, str(error)]
    broadcast_object_list(result)
    if result[1] is not None:
        raise ValueError(result[1])
    found: _Result = result[0]
    return found


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
