"""``gpg-vl score``: completions you already have -> rewards and metric, without a model.

A row has ``completion`` and ``answer``; the published result files (``results`` with ``model_output`` and
``ground_truth``) can be read too. Boxes of both are in original pixels, unless a row names its ``frame``.
"""

from __future__ import annotations

import json
import logging
import math
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from gpg_vl.config import RewardsConfig
from gpg_vl.data.images import read_size
from gpg_vl.files import replace_file, same_place
from gpg_vl.records import AnswerIn, Frame, ImageView, Reward, Rule, Sample
from gpg_vl.rewards.pool import PUBLISHED_TIMEOUT_S, MetricJob, Outcome, ScoringPool, TaskJob
from gpg_vl.screen import printable, say
from gpg_vl.tasks import load_task
from gpg_vl.tasks.base import Task, legacy_scorer
from gpg_vl.user_code import absolute_spec, describe_error, own_file
from gpg_vl.verifiers.answers import strip_answer_tags

UNKNOWN_SIDE = 10**9
"""Assumed image size in pixels if a row gives none: every box is inside."""

_TAKEN = ("completion", "model_output", "answer", "ground_truth", "question", "image", "meta")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoredCompletion:
    """One completion to score: its row, its sample and the view of its image."""

    row: Mapping[str, Any]
    sample: Sample
    completion: str
    view: ImageView


@dataclass(frozen=True, slots=True)
class ScoredCompletion:
    prediction: StoredCompletion
    reward: Reward
    metric: float  # in [0, 1]


def score_file(
    task_name: str,
    predictions: Path,
    scorer: Rule = "strict",
    out: Path | None = None,
    answer_in: AnswerIn = "tags",
) -> dict[str, Any]:
    """The summary that ``gpg-vl score`` prints; writes every row with its reward to ``out``, if given.

    Raises:
        ValueError: no such task or file, a row that cannot be scored (names file and row), or ``boxed`` with the
            published scorers, which know no box
    """
    if scorer == "legacy" and answer_in == "boxed":
        raise ValueError("--answer-in boxed: the published scorers read answer tags only; leave --scorer strict")
    if out is not None:
        _check_out(out, predictions, own_file(task_name))
    with redirect_stdout(sys.stderr):  # what a user's task prints is not part of the output
        task = _load_task(task_name, scorer)
        read = read_predictions(predictions, task_name, task)
    scored = _score(task, task_name, read, scorer, answer_in)
    if out is not None:
        text = "".join(json.dumps(_scored_row(item), ensure_ascii=False) + "\n" for item in scored)
        replace_file(out, text)
    return _summarise(task_name, task, scorer, scored)


def score_rows(
    task_name: str, rows: Iterable[Mapping[str, Any]], scorer: Rule = "strict", answer_in: AnswerIn = "tags"
) -> list[Reward]:
    """The reward of each row that ``score_file`` would read from a file.

    Raises:
        ValueError: no such task, a row that cannot be scored, or ``boxed`` with the published scorers; names it
    """
    for name, value, known in (("scorer", scorer, get_args(Rule)), ("answer_in", answer_in, get_args(AnswerIn))):
        if value not in known:
            raise ValueError(f"{name} is {value!r}; choose {' or '.join(known)}")
    if scorer == "legacy" and answer_in == "boxed":
        raise ValueError("answer_in is boxed: the published scorers read answer tags only; leave scorer strict")
    task = _load_task(task_name, scorer)
    read = check_completions(list(rows), "rows", task_name, task)
    return [each.reward for each in _score(task, task_name, read, scorer, answer_in)]


def _load_task(task_name: str, scorer: Rule) -> Task:
    task = load_task(task_name)
    if scorer == "legacy":
        legacy_scorer(task)
    return task


def _score(
    task: Task, task_name: str, read: Sequence[StoredCompletion], scorer: Rule, answer_in: AnswerIn
) -> list[ScoredCompletion]:
    limits = RewardsConfig()
    with ScoringPool(limits.timeout_s, limits.memory_mb) as pool:
        return score_completions(pool, task, task_name, read, scorer, answer_in)


def _check_out(out: Path, predictions: Path, code: str) -> None:
    """Before the work, refuses a file that cannot be written; leaves no file."""
    if same_place(out, predictions):
        raise ValueError(f"--out: {out} is the file of --predictions; choose another")
    if code and same_place(out, Path(code)):
        raise ValueError(f"--out: {out} is the file of --task; choose another")
    is_new = not out.exists()
    try:
        out.open("a", encoding="utf-8").close()
        if is_new:
            out.unlink()
    except OSError as error:
        raise ValueError(f"--out: cannot write {out} ({error.strerror}); choose another file") from error


def read_predictions(path: Path, task_name: str, task: Task) -> list[StoredCompletion]:
    """The rows of a JSON lines file or of a published result file.

    Raises:
        ValueError: no file, no rows, or a row without completion and answer; names file and row
    """
    if not path.is_file():
        raise ValueError(f"no file {path}; give a file of completions")
    return check_completions(_read_rows(path), str(path), task_name, task)


def check_completions(rows: Sequence[Any], where: str, task_name: str, task: Task) -> list[StoredCompletion]:
    """
    Args:
        where: what the rows are called

    Raises:
        ValueError: no rows, or a row without completion and answer; names it
    """
    predictions = []
    for number, row in enumerate(rows, start=1):
        try:
            prediction = _read_row(row, number, task_name)
            task.check(prediction.sample)
        except ValueError as error:
            raise ValueError(f"{where}, row {number}: {error}") from error
        except (Exception, SystemExit) as error:  # the check may be the user's code
            raise ValueError(f"{where}, row {number}: task {task_name}: {describe_error(error)}") from error
        predictions.append(prediction)
    if not predictions:
        raise ValueError(f"{where} has no rows; a row is {{'completion': ..., 'answer': ...}}")
    _warn_of_missing_images(predictions)
    return predictions


def _read_rows(path: Path) -> list[Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file: {error}") from error
    try:
        content = _parse(text)
    except (ValueError, RecursionError):
        return [_read_line(path, number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if isinstance(content, dict) and isinstance(content.get("results"), list):
        return list(content["results"])
    return content if isinstance(content, list) else [content]


def _read_line(path: Path, number: int, line: str) -> Any:
    try:
        return _parse(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}, line {number}: not JSON ({type(error).__name__}); write one object per line"
        ) from error


def _parse(text: str) -> Any:
    """Parses JSON; NaN and infinities, which are not JSON, become null."""
    return json.loads(text, parse_constant=lambda word: None, parse_float=_finite)


def _finite(digits: str) -> float | None:
    return float(digits) if math.isfinite(float(digits)) else None


def _read_row(row: Any, number: int, task_name: str) -> StoredCompletion:
    if not isinstance(row, Mapping):
        raise ValueError(f"is a {type(row).__name__}; make it an object with completion and answer")
    completion = _first(row, "completion", "model_output")
    answer = _first(row, "answer", "ground_truth")
    if not isinstance(completion, str):
        raise ValueError("the completion is not text; make it a string")
    question = row.get("question", "")
    image = row.get("image")
    meta = row["meta"] if isinstance(row.get("meta"), dict) else {}
    sample = Sample(
        id=str(row.get("id", number)),
        task=task_name,
        images=(image if isinstance(image, str) else "",),  # one image, which may not exist
        question=question if isinstance(question, str) else "",
        answer=strip_answer_tags(answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)),
        meta={name: value for name, value in row.items() if name not in _TAKEN} | meta,
    )
    return StoredCompletion(row, sample, completion, _view(row, sample.images[0]))


def _first(row: Mapping[str, Any], *names: str) -> Any:
    for name in names:
        if row.get(name) is not None:
            return row[name]
    raise ValueError(f"has no {names[0]}; it has {list(row)}")


def _view(row: Mapping[str, Any], image: str | bytes) -> ImageView:
    """The view for reading boxes: the row's ``frame``, or original pixels; sizes come from the row or its image."""
    width, height = _size(row, "width", "height") or _image_size(image) or (UNKNOWN_SIDE, UNKNOWN_SIDE)
    frame = row.get("frame", "original_pixels")
    if frame == "original_pixels":
        return ImageView(width, height, width, height, "resized_pixels")
    if frame not in get_args(Frame):
        raise ValueError(f"frame is {frame!r}; the frames are original_pixels, {', '.join(get_args(Frame))}")
    model_size = _size(row, "model_width", "model_height")
    if width == UNKNOWN_SIDE or (frame == "resized_pixels" and model_size is None):
        more = " and model_width, model_height" if frame == "resized_pixels" else ""
        raise ValueError(f"frame {frame} needs the columns width, height{more}")
    return ImageView(width, height, *(model_size or (width, height)), frame)


def _size(row: Mapping[str, Any], width: str, height: str) -> tuple[int, int] | None:
    sides = (row.get(width), row.get(height))
    if sides == (None, None):
        return None
    if not all(isinstance(side, int) and 0 < side <= UNKNOWN_SIDE for side in sides):
        raise ValueError(f"{width} and {height} are {sides}; give them in pixels")
    return int(sides[0] or 0), int(sides[1] or 0)


def _image_size(image: str | bytes) -> tuple[int, int] | None:
    return read_size(str(Path(str(image)).resolve())) if image and Path(str(image)).is_file() else None


def _warn_of_missing_images(predictions: Iterable[StoredCompletion]) -> None:
    missing = sum(1 for p in predictions if p.row.get("image") and p.view.width == UNKNOWN_SIDE)
    if missing:
        say(f"{missing} rows name a missing image: their boxes are not checked against its edges")


def score_completions(
    pool: ScoringPool,
    task: Task,
    task_name: str,
    predictions: Sequence[StoredCompletion],
    scorer: Rule = "strict",
    answer_in: AnswerIn = "tags",
) -> list[ScoredCompletion]:
    """Scores every row in the pool's processes; a row with a timeout or error gets reward and metric 0."""
    code = absolute_spec(task_name)
    cases = [(code, each.sample, (each.view,), (each.completion,)) for each in predictions]
    rewards: list[TaskJob | MetricJob] = [TaskJob(*case, {}, scorer, answer_in) for case in cases]
    metrics: list[TaskJob | MetricJob] = [MetricJob(*case) for case in cases] if scorer == "legacy" else []
    timeout_s = PUBLISHED_TIMEOUT_S if scorer == "legacy" else None
    outcomes = [outcome for [outcome] in pool.run([*rewards, *metrics], timeout_s=timeout_s)]
    _refuse_mistakes(predictions, outcomes)
    of_rewards, of_metrics = outcomes[: len(cases)], outcomes[len(cases) :]
    scored = []
    failures = []
    for n, prediction in enumerate(predictions):
        of_row = [outcome for outcome in (of_rewards[n], *of_metrics[n : n + 1]) if outcome is not None]
        failure = next((outcome for outcome in of_row if outcome.status != "ok"), None)
        if failure is not None:
            failures.append((prediction, failure))
            scored.append(ScoredCompletion(prediction, _no_reward(failure), 0.0))
            continue
        reward: Reward = of_row[0].value
        metric = of_row[1].value if len(of_row) > 1 else reward.parts.get(task.main_part, 0.0)
        scored.append(ScoredCompletion(prediction, reward, metric))
    if failures:
        (first, failure), num = failures[0], len(failures)
        said = (num, printable(first.sample.id), failure.status, printable(failure.message))
        _log.warning("scoring failed on %d rows; first: row %s: %s: %s", *said)
    return scored


def _refuse_mistakes(predictions: Sequence[StoredCompletion], outcomes: Sequence[Outcome | None]) -> None:
    """
    Raises:
        ValueError: the task's code has a mistake, which no completion is to blame for
    """
    for prediction, outcome in zip(predictions, outcomes, strict=False):  # the metrics follow, by the same rows
        if outcome is not None and outcome.is_mistake:
            raise ValueError(f"row {prediction.sample.id}: {outcome.message}")


def _no_reward(failure: Outcome) -> Reward:
    return Reward(0.0, {}, "timeout" if failure.status == "timeout" else "error")


def _summarise(task_name: str, task: Task, scorer: Rule, scored: Sequence[ScoredCompletion]) -> dict[str, Any]:
    rewards = [item.reward for item in scored]
    names = sorted({name for reward in rewards for name in reward.parts})
    return {
        "task": task_name,
        "scorer": scorer,
        "n": len(scored),
        "reward_mean": statistics.fmean(reward.total for reward in rewards),
        "metric": task.metric,
        task.metric: statistics.fmean(item.metric for item in scored),
        "parts": {name: statistics.fmean(reward.parts.get(name, 0.0) for reward in rewards) for name in names},
        "status": dict(Counter(reward.status for reward in rewards)),
    }


def _scored_row(item: ScoredCompletion) -> dict[str, Any]:
    reward = item.reward
    result = {"reward": reward.total, "parts": reward.parts, "status": reward.status, "metric": item.metric}
    return {**item.prediction.row, **result}
