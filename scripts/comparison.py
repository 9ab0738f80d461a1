"""What a comparison of objectives is made of, and what is made of it: a table and a figure over all its runs."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from scipy import stats

from gpg_vl.config import Recipe
from gpg_vl.models.folder.paths import checkpoint_folder, find_checkpoints
from gpg_vl.run.run_log import read_metrics
from gpg_vl.run.saved_recipe import RECIPE_FILE

matplotlib.use("Agg")
import matplotlib.pyplot as plt

MEMORY_FILE = "memory.json"
LAST_SHARE = 0.1
"""Share of the steps, at the end of a run, that its training reward is the mean of."""


@dataclass(frozen=True, slots=True)
class Run:
    """One objective with one seed."""

    objective: str  # a name, or FILE.py:CLASS without the folder
    seed: int
    folder: Path
    recipe: Recipe

    @property
    def is_trained(self) -> bool:
        checkpoints = find_checkpoints(self.folder)
        return checkpoint_folder(self.folder, self.recipe.run.steps) in checkpoints

    @property
    def recipe_file(self) -> Path:
        return self.folder / f"compare-{RECIPE_FILE}"

    @property
    def held_out(self) -> Path:
        return self.folder / "held-out"

    @property
    def results(self) -> Path:
        return self.held_out / "results.json"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds with its 95 % interval (Student's); None where there is one seed."""

    mean: float
    half_width: float | None

    def __str__(self) -> str:
        return format(self, ".3f")

    def __format__(self, spec: str) -> str:
        return " ± ".join(format(value, spec) for value in (self.mean, self.half_width) if value is not None)


@dataclass(frozen=True, slots=True)
class Row:
    """One objective over its seeds."""

    objective: str
    num_seeds: int
    scores: dict[str, Estimate]  # held-out score by task, and "mean" over the tasks
    difference: Estimate | None  # of the mean score to that of the first objective, over the seeds of both
    reward: Estimate  # of the last steps
    step_seconds: Estimate  # median of a run's steps
    memory_gib: Estimate | None  # peak of the process, on the device if there is one
    draws: float  # mean number of draws for a rollout
    trained_share: float  # of the sampled groups


def estimate(values: Sequence[float]) -> Estimate:
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Estimate(mean, None)
    width = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(mean, float(width))


def report(runs: Sequence[Run], out: Path) -> None:
    names = list(dict.fromkeys(run.objective for run in runs))
    of_each = {name: [run for run in runs if run.objective == name] for name in names}
    rows = [summarise(of_each[name], of_each[names[0]]) for name in names]
    (out / "comparison.json").write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
    (out / "comparison.md").write_text(write_table(rows), encoding="utf-8")
    draw_figure(rows, of_each, out / "comparison.png")


def summarise(runs: Sequence[Run], first: Sequence[Run]) -> Row:
    scores = [read_scores(run) for run in runs]
    reference = {run.seed: read_scores(run)["mean"] for run in first}
    pairs = [(score["mean"], reference.get(run.seed)) for run, score in zip(runs, scores, strict=True)]
    differences = [mean - other for mean, other in pairs if other is not None]
    metrics = [read_metrics(run.folder) for run in runs]
    drawn = [row for of_run in metrics for row in of_run if "groups" in row]
    memory = [peak for run in runs if (peak := read_memory(run)) is not None]
    return Row(
        objective=runs[0].objective,
        num_seeds=len(runs),
        scores={task: estimate([score[task] for score in scores]) for task in scores[0]},
        difference=None if runs[0].objective == first[0].objective or not differences else estimate(differences),
        reward=estimate([last_reward(of_run) for of_run in metrics]),
        step_seconds=estimate([statistics.median(row["seconds"]["step"] for row in of_run) for of_run in metrics]),
        memory_gib=estimate(memory) if memory else None,
        draws=statistics.fmean(row["draws"] for row in drawn),
        trained_share=sum(row["trained_groups"] for row in drawn) / sum(row["groups"] for row in drawn),
    )


def read_scores(run: Run) -> dict[str, float]:
    tasks = json.loads(run.results.read_text(encoding="utf-8"))["tasks"]
    scores = {task: float(score["value"]) for task, score in tasks.items()}
    return {**scores, "mean": statistics.fmean(scores.values())}


def last_reward(metrics: Sequence[dict[str, Any]]) -> float:
    rewards = _rewards(metrics)
    return statistics.fmean(rewards[-max(1, round(LAST_SHARE * len(rewards))) :])


def _rewards(metrics: Sequence[dict[str, Any]]) -> list[float]:
    """Of each rollout: a step that uses one again has none."""
    return [row["reward"] for row in metrics if "reward" in row]


def read_memory(run: Run) -> float | None:
    """Of the process that trained it last, in GiB; None where an interrupted comparison left none."""
    path = run.folder / MEMORY_FILE
    if not path.is_file():
        return None
    memory = json.loads(path.read_text(encoding="utf-8"))
    return (memory["device_bytes"] or memory["host_bytes"]) / 2**30


def write_table(rows: Sequence[Row]) -> str:
    tasks = list(rows[0].scores)
    heads = ["objective", "seeds", *tasks, f"to {rows[0].objective}", "reward", "s/step", "GiB", "draws", "trained"]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in rows:
        cells = [
            row.objective, str(row.num_seeds), *(str(row.scores[task]) for task in tasks),
            "" if row.difference is None else str(row.difference), str(row.reward), f"{row.step_seconds:.2f}",
            "" if row.memory_gib is None else f"{row.memory_gib:.2f}", f"{row.draws:.2f}", f"{row.trained_share:.0%}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw_figure(rows: Sequence[Row], runs: dict[str, list[Run]], path: Path) -> None:
    """Reward by rollout, held-out score, seconds and memory; in all four, each objective has its colour."""
    figure, axes = plt.subplots(2, 2, figsize=(12, 8), layout="constrained")
    for number, row in enumerate(rows):
        colour, style = f"C{number % 10}", "-" if number < 10 else "--"
        scores = [read_scores(run)["mean"] for run in runs[row.objective]]
        _draw_curves(axes[0, 0], runs[row.objective], row.objective, color=colour, linestyle=style)
        _draw_estimate(axes[0, 1], row.scores["mean"], row.objective, colour)
        axes[0, 1].plot(scores, [row.objective] * len(scores), "|", color=colour, markersize=12)
        _draw_estimate(axes[1, 0], row.step_seconds, row.objective, colour)
        _draw_estimate(axes[1, 1], row.memory_gib, row.objective, colour)
    axes[0, 0].set(title="training reward of 10 rollouts, mean and range over seeds", xlabel="rollout")
    axes[0, 0].legend(fontsize="small", ncols=2)
    axes[0, 1].set(title="held-out score of each seed, mean with 95 % interval")
    axes[1, 0].set(title="seconds for a step (median of a run), mean with 95 % interval")
    axes[1, 1].set(title="peak memory of the process in GiB, mean with 95 % interval")
    for each in axes.flat[1:]:
        each.invert_yaxis()
        each.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_curves(axis: Axes, runs: Sequence[Run], label: str, **style: Any) -> None:
    """The reward of each rollout, as far as all runs got."""
    curves = list(zip(*(_smooth(_rewards(read_metrics(run.folder))) for run in runs), strict=False))
    rollouts = range(1, len(curves) + 1)
    axis.plot(rollouts, [statistics.fmean(values) for values in curves], label=label, **style)
    axis.fill_between(
        rollouts, [min(values) for values in curves], [max(values) for values in curves],
        color=style["color"], alpha=0.12, linewidth=0,
    )  # fmt: skip


def _draw_estimate(axis: Axes, of_row: Estimate | None, name: str, colour: str) -> None:
    if of_row is not None:
        axis.errorbar([of_row.mean], [name], xerr=[of_row.half_width or 0.0], fmt="o", capsize=3, color=colour)


def _smooth(values: Sequence[float], width: int = 10) -> list[float]:
    """The mean of up to ``width`` values that end at each."""
    return [statistics.fmean(values[max(0, end - width) : end]) for end in range(1, len(values) + 1)]
