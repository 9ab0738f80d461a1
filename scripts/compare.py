"""Several objectives on one recipe, for several seeds: `scripts/compare.sh RECIPE --objectives gpg,grpo --seeds 0,1,2`.

Each run starts from the recipe's model and, for a seed, draws the same prompts in the same order; only the objective
differs. The recipe's own `objective:` section is for the objective that it names; the others have their defaults. A
killed comparison is resumed by the same command. A run that fails is named at the end, and the others go on. The folder
holds a run for each objective and seed, and comparison.json, comparison.md and comparison.png over all of them.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpg_vl import cli
from gpg_vl.config import ObjectiveConfig, Recipe
from gpg_vl.models.folder.paths import find_checkpoints
from gpg_vl.objectives import build_objective
from gpg_vl.preflight.rewards import fit_rewards
from gpg_vl.preflight.sources import load_all_sources, load_sources
from gpg_vl.preflight.start import check_recipe
from gpg_vl.processes.command_line import ScriptParser
from gpg_vl.recipes import as_word, load_recipe, parse_yaml
from gpg_vl.run.saved_recipe import RECIPE_FILE, write_recipe
from gpg_vl.user_code import absolute_spec
from scripts.comparison import MEMORY_FILE, Run, report

HELD_OUT_COMMAND = "compare-held-out.json"
STOPPED = [128 + number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)]
"""Exit codes of a run that somebody stopped."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = ScriptParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("recipe", nargs="+", help="a recipe; of several, later ones override earlier ones")
    parser.add_argument("--objectives", required=True, help="names with a comma between, or FILE.py:CLASS")
    parser.add_argument("--seeds", default="0", help="whole numbers with a comma between (default 0)")
    parser.add_argument("--held-out", nargs="+", default=None, help="files to score at the end (default: data.eval)")
    parser.add_argument("--samples", type=int, default=4, help="sampled answers to each held-out prompt (default 4)")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"), help="default runs/compare")
    options, overrides = parser.parse_known_args(argv)
    try:
        runs = plan_runs(options.recipe, overrides, options.objectives.split(","), options.seeds, options.out)
        if options.samples < 1:
            raise ValueError("--samples must be at least 1")
        held_out = options.held_out or [_word(entry) for entry in runs[0].recipe.data.eval]
        check_rows(runs, held_out)
    except ValueError as error:
        print(f"scripts/compare.sh: {error}", file=sys.stderr)
        return 2
    return compare(runs, held_out, options.samples, options.out)


def compare(runs: Sequence[Run], held_out: Sequence[str], num_samples: int, out: Path) -> int:
    """The exit code: of the run that somebody stopped, else of the first that failed, else 0."""
    done: list[Run] = []
    failed: dict[str, int] = {}
    for number, run in enumerate(runs, start=1):
        print(f"[{number}/{len(runs)}] {run.objective}, seed {run.seed}", flush=True)
        code = train_and_score(run, held_out, num_samples)
        if code in STOPPED:
            return code
        if code:
            failed[f"{run.objective}, seed {run.seed}"] = code
            continue
        done.append(run)
        report(done, out)
    if done:
        print((out / "comparison.md").read_text(encoding="utf-8"))
    for name, code in failed.items():
        print(f"scripts/compare.sh: {name} failed (exit code {code}); the same command tries it again", file=sys.stderr)
    return next(iter(failed.values()), 0)


def _word(entry: str | dict[str, Any]) -> str:
    return entry if isinstance(entry, str) else as_word(entry)


def plan_runs(
    recipes: Sequence[str], overrides: Sequence[str], objectives: Sequence[str], seeds: str, out: Path
) -> list[Run]:
    """The runs, seed by seed.

    Raises:
        ValueError: the recipe, an objective or the seeds cannot be used
    """
    base = load_recipe(list(recipes), list(overrides))
    if not re.fullmatch(r"\d+(,\d+)*", seeds):
        raise ValueError(f"--seeds: {seeds!r} is not a list of whole numbers such as 0,1,2")
    specs = {_label(spec): spec for spec in map(absolute_spec, map(str.strip, objectives))}
    if len(specs) < len(objectives):
        raise ValueError("--objectives: two of them have the same name; name each once, or rename a file")
    runs = []
    for seed in dict.fromkeys(map(int, seeds.split(","))):
        for label, spec in specs.items():
            folder = out / re.sub(r"\W+", "-", label).strip("-") / f"seed-{seed}"
            runs.append(Run(label, seed, folder, with_objective(base, spec, seed, folder)))
    return runs


def _label(spec: str) -> str:
    return spec.rpartition("/")[2]


def check_rows(runs: Sequence[Run], held_out: Sequence[str]) -> None:
    """What would end a run after others have taken their hours.

    Raises:
        ValueError: rows cannot be used, or an objective does not take the rewards or the group size
    """
    if not held_out:
        raise ValueError("--held-out: the recipe has no data.eval; name the files to score at the end")
    recipe = runs[0].recipe
    tasks = load_all_sources(recipe)[0].tasks
    for run in {run.objective: run for run in runs}.values():
        fit_rewards(run.recipe, check_recipe(run.recipe), tasks.values())
    entries = [parse_yaml(word) if word.startswith("{") else word for word in held_out]
    load_sources(entries, recipe, "--held-out", needs_images=False)


def with_objective(base: Recipe, name: str, seed: int, folder: Path) -> Recipe:
    """The recipe of one run, without what its objective does not use: rollouts once more, a discriminator's weight."""
    objective = base.objective if name == base.objective.name else ObjectiveConfig(name=name)
    update, rollout, weights = base.update, base.rollout, dict(base.rewards.weights)
    if not build_objective(objective, 1).has_discriminator:
        weights.pop("discriminator", None)
    if not build_objective(objective, 1).allows_reuse:
        update = replace(update, epochs_per_rollout=1, groups_per_update=None)
        rollout = replace(rollout, refresh=None)
    elif not build_objective(objective, 1, is_reused=True).needs:
        rollout = replace(rollout, refresh=None)
    run = replace(base.run, seed=seed, output_dir=str(folder))
    rewards = replace(base.rewards, weights=weights)
    recipe = replace(base, objective=objective, update=update, rollout=rollout, rewards=rewards, run=run)
    build_objective(objective, rollout.max_new_tokens, recipe.reuses_rollouts)
    return recipe


# --- running ---


def train_and_score(run: Run, held_out: Sequence[str], num_samples: int) -> int:
    """What is not there yet; the exit code of what failed, else 0.

    What is there of another recipe, or of other rows, is refused by the command that wrote it.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    write_recipe(run.recipe, run.recipe_file)
    is_trained_so = run.is_trained and _read(run.folder / RECIPE_FILE) == _read(run.recipe_file)
    if not is_trained_so and (code := _in_process("train", str(run.recipe_file))):
        return code
    sampling = ["--evaluation.num_samples", str(num_samples), "--evaluation.temperature", "1.0"]
    words = [str(run.folder), "--data", *held_out, "--out", str(run.held_out), *sampling]
    command = json.dumps([run.recipe.run.steps, *words])
    if run.results.is_file() and _read(run.folder / HELD_OUT_COMMAND) == command:
        return 0
    code = _in_process("eval", *words)
    if code == 0:
        (run.folder / HELD_OUT_COMMAND).write_text(command, encoding="utf-8")
    return code


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _in_process(*words: str) -> int:
    """``gpg-vl WORDS`` in a process of its own, which leaves the peak of its memory behind."""
    with subprocess.Popen([sys.executable, __file__, "--child", *words]) as child:
        while True:
            try:
                return child.wait()
            except KeyboardInterrupt:  # the child has had it too, and saves its last step
                continue


def run_child(words: Sequence[str]) -> int:
    folder = Path(words[1]).parent
    before = find_checkpoints(folder)
    code = cli.main(list(words))
    if code == 0 and words[0] == "train" and find_checkpoints(folder) != before:
        import torch

        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        device = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
        memory = {"host_bytes": host, "device_bytes": device}
        (folder / MEMORY_FILE).write_text(json.dumps(memory), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(run_child(sys.argv[2:]) if sys.argv[1:2] == ["--child"] else main())
