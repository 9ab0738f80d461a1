"""A run folder -> what its report shows: curves, validation and evaluations, recorded groups with their pictures."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gpg_vl.data.images import BadImage, read_image_file
from gpg_vl.report.agreement import EDGE, agrees, describe_agreement
from gpg_vl.report.curves import make_charts, mean_of
from gpg_vl.run.record import IMAGE_NAME, RECORD_FOLDER, picture_names, read_record
from gpg_vl.run.run_log import METRICS_FILE, read_metrics
from gpg_vl.run.saved_recipe import RECIPE_FILE
from gpg_vl.user_code import describe_error

MAX_GROUPS = 2000
"""Of a run on the page; of more, evenly spaced steps are shown."""
_HALF = 0.5


@dataclass(frozen=True, slots=True)
class RunData:
    """One run on the page."""

    name: str
    objective: str
    num_steps: int
    charts: list[dict[str, Any]]
    tasks: list[dict[str, Any]]  # how each task and part stood at the beginning and at the end
    validation: list[dict[str, Any]]  # step, task, metric, value, low, high
    evaluations: list[dict[str, Any]]  # name, task, metric, value, low, high, n
    groups: list[dict[str, Any]]
    recipe: str
    agreement: list[dict[str, Any]] = field(default_factory=list)  # of answers with the gold ones, by task
    images: dict[str, str] = field(default_factory=dict)  # data URIs by file name


def read_run(folder: Path, evaluations: Sequence[Path] = ()) -> RunData:
    """
    Args:
        evaluations: folders of evaluations that belong to it, besides those inside the run's folder

    Raises:
        ValueError: a folder holds no run or no evaluation, or a file is damaged; names it
    """
    try:
        return _read_run(folder, read_run_metrics(folder), evaluations)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{folder / METRICS_FILE} has a line that no run writes ({describe_error(error)}); remove it"
        ) from error


def _read_run(folder: Path, metrics: list[dict[str, Any]], evaluations: Sequence[Path]) -> RunData:
    groups = [_group(row) for row in _thinned(read_record(folder))]
    inside = sorted(path.parent for path in folder.glob("*/results.json"))
    recipe = folder / RECIPE_FILE
    text = recipe.read_text(encoding="utf-8", errors="replace") if recipe.is_file() else ""
    return RunData(
        name=folder.name,
        objective=_objective_of(text),
        num_steps=max((row["step"] for row in metrics), default=0),
        charts=[asdict(chart) for chart in make_charts(metrics)],
        tasks=_changes(metrics),
        validation=[_score(row["step"], task, score) for row in metrics for task, score in row.get("eval", {}).items()],
        evaluations=_evaluations([*inside, *evaluations]),
        groups=groups,
        recipe=text,
        agreement=[asdict(each) for each in describe_agreement(groups)],
        images=_images(folder / RECORD_FOLDER, groups),
    )


def read_run_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's ``metrics.jsonl``.

    Raises:
        ValueError: the folder holds no run, or the file is damaged
    """
    if not (folder / METRICS_FILE).is_file():
        raise ValueError(f"{folder} has no {METRICS_FILE}; name the output folder of a run (run.output_dir)")
    try:
        return read_metrics(folder)
    except ValueError as error:
        raise ValueError(f"{folder / METRICS_FILE} is damaged; remove its broken lines") from error


def _objective_of(recipe: str) -> str:
    from gpg_vl.recipes import parse_yaml

    try:
        return str(parse_yaml(recipe)["objective"]["name"])
    except (ValueError, TypeError, KeyError):
        return "unknown"


def _thinned(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """All rows of some steps, the first and the last among them, so that there are at most ``MAX_GROUPS``."""
    counts = Counter(row["step"] for row in rows)
    steps = sorted(counts)
    every = 1
    while len(steps) > 2 and sum(counts[step] for step in _spaced(steps, every)) > MAX_GROUPS and every < len(steps):
        every += 1
    kept = set(_spaced(steps, every))
    return [row for row in rows if row["step"] in kept]


def _spaced(steps: Sequence[int], every: int) -> list[int]:
    """Places at equal distances, counted from the last, and the first."""
    return sorted({*steps[:1], *steps[::-1][::every]})


def _group(row: Mapping[str, Any]) -> dict[str, Any]:
    rewards = [each["reward"] for each in row["completions"]]
    best = max((each["reward"] for each in row["completions"]), default=0.0)
    answers = Counter(each["answer"] for each in row["completions"])
    return {
        **row,
        "completions": [{**each, "agrees": agrees(each, row)} for each in row["completions"]],
        "kind": _kind(row),
        "mean": mean_of(rewards),
        "best": best,
        "num_answers": len(answers),
        "statuses": sorted({each["status"] for each in row["completions"]}),
    }


def _kind(row: Mapping[str, Any]) -> str:
    """mixed: rewards differ. Else easy where the completions earn at least half of the marks, and hard where not."""
    rewards = [each["reward"] for each in row["completions"]]
    if row["is_trained"] or (rewards and max(rewards) - min(rewards) > 1e-5):
        return "mixed"
    return "easy" if (mean_of(map(_marks, row["completions"])) or 0.0) >= _HALF else "hard"


def _marks(completion: Mapping[str, Any]) -> float:
    """Of the first part that is no format, which is that of the task; 0 for an answer that has none."""
    values = [part["value"] for part in completion["parts"] if part["name"] != "format"]
    return float(values[0]) if values else 0.0


def _changes(metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Reward by task and by part, over the first and the last tenth of the steps."""
    rows = [row for row in metrics if "reward" in row]
    size = max(1, round(len(rows) * EDGE))
    changes = []
    for what, key in (("reward", "reward_by_task"), ("part", "parts")):
        for name in sorted({name for row in rows for name in row.get(key, {})}):
            first, last = (
                mean_of(row[key][name] for row in part if name in row[key]) for part in (rows[:size], rows[-size:])
            )
            changes.append({"what": what, "name": name, "first": first, "last": last})
    return changes


def _score(step: int, task: str, score: Mapping[str, Any]) -> dict[str, Any]:
    return {"step": step, "task": task, **{key: score.get(key) for key in ("metric", "value", "low", "high", "n")}}


def _evaluations(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """
    Raises:
        ValueError: a folder holds no results
    """
    found = []
    for folder in folders:
        try:
            tasks = json.loads((folder / "results.json").read_text(encoding="utf-8"))["tasks"]
            found += [{"name": folder.name, **_score(0, task, score)} for task, score in tasks.items()]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{folder} holds no results of an evaluation; name the folder of gpg-vl eval --out"
            ) from error
    return found


def _images(record: Path, groups: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    names = {name for group in groups for name in picture_names(group)}
    return {name: uri for name in sorted(names) if (uri := _data_uri(record, name)) is not None}


def _data_uri(record: Path, name: str) -> str | None:
    known = IMAGE_NAME.fullmatch(name)
    if known is None:
        return None
    try:
        content = read_image_file(str((record / name).resolve()))
    except BadImage:
        return None
    return f"data:image/{known[1]};base64,{base64.b64encode(content).decode()}"
