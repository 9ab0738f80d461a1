"""Several objectives on one recipe, for several seeds: `scripts/compare.sh RECIPE --objectives gpg,grpo --seeds 0,1,2`.

Each run starts from the recipe's model and, for a seed, draws the same prompts in the same order; only the objective
differs. The recipe's own `objective:` section is for the objective that it names; the others have their defaults. A
killed comparison is resumed by the same command. Its folder holds a run for each objective and seed, and
comparison.json, comparison.md and comparison.png over all of them.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
from scipy import stats

from gpg_vl import cli
from gpg_vl.config import ObjectiveConfig, Recipe
from gpg_vl.models.paths import checkpoint_folder, find_checkpoints
from gpg_vl.objectives import build_objective
from gpg_vl.recipes import load_recipe
from gpg_vl.run.run_log import read_metrics
from gpg_vl.run.saved_recipe import RECIPE_FILE, write_recipe

matplotlib.use("Agg")
import matplotlib.pyplot as plt

MEMORY_FILE = "memory.json"
HELD_OUT_FOLDER = "held-out"
LAST_SHARE = 0.1
"""Share of the steps, at the end of a run, that its training reward is the mean of."""


@dataclass(frozen=True, slots=True)
class Run:
    """One objective with one seed."""

    objective: str
    seed: int
    folder: Path
    recipe: Recipe

    @property
    def is_trained(self) -> bool:
        checkpoints = find_checkpoints(self.folder)
        return checkpoint_folder(self.folder, self.recipe.run.steps) in checkpoints

    @property
    def results(self) -> Path:
        return self.folder / HELD_OUT_FOLDER / "results.json"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("recipe", nargs="+", help="a recipe; of several, later ones override earlier ones")
    parser.add_argument("--objectives", required=True, help="names with a comma between, or FILE.py:CLASS")
    parser.add_argument("--seeds", default="0", help="whole numbers with a comma between (default 0)")
    parser.add_argument("--held-out", nargs="+", default=None, help="files to score at the end (default: data.eval)")
    parser.add_argument("--samples", type=int, default=4, help="sampled answers to each held-out prompt (default 4)")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"), help="default runs/compare")
    options, overrides = parser.parse_known_args(argv)
    try:
        runs = plan_runs(options.recipe, overrides, options.objectives.split(","), options.seeds, options.out)
        held_out = options.held_out or [_path(entry) for entry in runs[0].recipe.data.eval]
        if not held_out:
            raise ValueError("--held-out: the recipe has no data.eval; name the files to score at the end")
    except ValueError as error:
        print(f"scripts/compare.sh: {error}", file=sys.stderr)
        return 2
    for number, run in enumerate(runs, start=1):
        print(f"[{number}/{len(runs)}] {run.objective}, seed {run.seed}", flush=True)
        if code := train_and_score(run, held_out, options.samples):
            return code
        report(runs[:number], options.out)
    print((options.out / "comparison.md").read_text(encoding="utf-8"))
    return 0


def _path(entry: str | dict[str, Any]) -> str:
    return entry if isinstance(entry, str) else str(entry["path"])


def plan_runs(
    recipes: Sequence[str], overrides: Sequence[str], objectives: Sequence[str], seeds: str, out: Path
) -> list[Run]:
    """The runs, seed by seed; every objective is tried with the recipe first.

    Raises:
        ValueError: the recipe, an objective or the seeds cannot be used
    """
    base = load_recipe(list(recipes), list(overrides))
    if not re.fullmatch(r"\d+(,\d+)*", seeds):
        raise ValueError(f"--seeds: {seeds!r} is not a list of whole numbers such as 0,1,2")
    if len(set(objectives)) < len(objectives):
        raise ValueError("--objectives: an objective stands there twice")
    runs = []
    for seed in map(int, seeds.split(",")):
        for name in objectives:
            folder = out / re.sub(r"\W+", "-", name.rpartition("/")[2]).strip("-") / f"seed-{seed}"
            runs.append(Run(name, seed, folder, with_objective(base, name, seed, folder)))
    return runs


def with_objective(base: Recipe, name: str, seed: int, folder: Path) -> Recipe:
    """The recipe of one run; without the reuse of rollouts that its objective has no use for."""
    objective = base.objective if name == base.objective.name else ObjectiveConfig(name=name)
    update, rollout = base.update, base.rollout
    if not build_objective(objective, 1).allows_reuse:
        update = replace(update, epochs_per_rollout=1, groups_per_update=None)
        rollout = replace(rollout, refresh=None)
    elif not build_objective(objective, 1, is_reused=True).needs:
        rollout = replace(rollout, refresh=None)
    run = replace(base.run, seed=seed, output_dir=str(folder))
    recipe = replace(base, objective=objective, update=update, rollout=rollout, run=run)
    build_objective(objective, rollout.max_new_tokens, recipe.reuses_rollouts)
    return recipe


# --- running ---


def train_and_score(run: Run, held_out: Sequence[str], num_samples: int) -> int:
    """What is not there yet; the exit code of what failed, else 0."""
    run.folder.mkdir(parents=True, exist_ok=True)
    recipe = run.folder / f"compare-{RECIPE_FILE}"
    write_recipe(run.recipe, recipe)
    if not run.is_trained and (code := _in_process("train", str(recipe))):
        return code
    if run.results.is_file():
        return 0
    sampling = ["--evaluation.num_samples", str(num_samples), "--evaluation.temperature", "1.0"]
    return _in_process(
        "eval", str(run.folder), "--data", *held_out, "--out", str(run.folder / HELD_OUT_FOLDER), *sampling
    )


def _in_process(*words: str) -> int:
    """``gpg-vl WORDS`` in a process of its own, which leaves the peak of its memory behind."""
    return subprocess.run([sys.executable, __file__, "--child", *words], check=False).returncode


def run_child(words: Sequence[str]) -> int:
    code = cli.main(list(words))
    if code == 0 and words[0] == "train":
        import torch

        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        device = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
        path = Path(words[1]).parent / MEMORY_FILE
        path.write_text(json.dumps({"host_bytes": host, "device_bytes": device}), encoding="utf-8")
    return code


# --- reporting ---


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds with its 95 % interval (Student's); None where there is one seed."""

    mean: float
    half_width: float | None

    def __str__(self) -> str:
        return f"{self.mean:.3f}" if self.half_width is None else f"{self.mean:.3f} ± {self.half_width:.3f}"


@dataclass(frozen=True, slots=True)
class Row:
    """One objective over its seeds."""

    objective: str
    num_seeds: int
    scores: dict[str, Estimate]  # held-out score by task, and "mean" over the tasks
    difference: Estimate | None  # of the mean score to that of the first objective, seed by seed
    reward: Estimate  # of the last steps
    step_seconds: float  # median of a step
    memory_gib: float | None  # peak of the process, on the device if there is one
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
    differences = [score["mean"] - reference[run.seed] for run, score in zip(runs, scores, strict=True)]
    metrics = [read_metrics(run.folder) for run in runs]
    drawn = [row for of_run in metrics for row in of_run if "groups" in row]
    return Row(
        objective=runs[0].objective,
        num_seeds=len(runs),
        scores={task: estimate([score[task] for score in scores]) for task in scores[0]},
        difference=None if runs[0].objective == first[0].objective else estimate(differences),
        reward=estimate([last_reward(of_run) for of_run in metrics]),
        step_seconds=statistics.median(row["seconds"]["step"] for of_run in metrics for row in of_run),
        memory_gib=max((memory for run in runs if (memory := read_memory(run)) is not None), default=None),
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
    names = [row.objective for row in rows]
    colours = [f"C{number % 10}" for number in range(len(rows))]
    for number, row in enumerate(rows):
        style = "-" if number < 10 else "--"
        mean = _mean_reward(runs[row.objective])
        axes[0, 0].plot(range(1, len(mean) + 1), mean, style, color=colours[number], label=row.objective)
        estimate, scores = row.scores["mean"], [read_scores(run)["mean"] for run in runs[row.objective]]
        axes[0, 1].errorbar(
            [estimate.mean], [row.objective], xerr=[estimate.half_width or 0.0], fmt="o", capsize=3,
            color=colours[number],
        )  # fmt: skip
        axes[0, 1].plot(scores, [row.objective] * len(scores), "|", color=colours[number], markersize=12)
    axes[0, 0].set(title="training reward, mean over seeds and 10 rollouts", xlabel="rollout")
    axes[0, 0].legend(fontsize="small", ncols=2)
    axes[0, 1].set(title="held-out score of each seed, mean with 95 % interval")
    axes[1, 0].barh(names, [row.step_seconds for row in rows], color=colours)
    axes[1, 0].set(title="seconds for a step, median")
    axes[1, 1].barh(names, [row.memory_gib or 0.0 for row in rows], color=colours)
    axes[1, 1].set(title="peak memory of the process, GiB")
    for each in axes.flat[1:]:
        each.invert_yaxis()
        each.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _mean_reward(runs: Sequence[Run]) -> list[float]:
    """Of each rollout, as far as all runs got."""
    curves = [_smooth(_rewards(read_metrics(run.folder))) for run in runs]
    return [statistics.fmean(values) for values in zip(*curves, strict=False)]


def _smooth(values: Sequence[float], width: int = 10) -> list[float]:
    """The mean of up to ``width`` values that end at each."""
    return [statistics.fmean(values[max(0, end - width) : end]) for end in range(1, len(values) + 1)]


if __name__ == "__main__":
    sys.exit(run_child(sys.argv[2:]) if sys.argv[1:2] == ["--child"] else main())
