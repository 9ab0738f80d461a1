"""The demo, from nothing to a better model: `make quickstart`, or `python scripts/quickstart.py --help`.

It only uses the kit's ordinary commands and prints each before running it, so that you can repeat it with your own
model and data. At the end, a table compares the model before and after GPG on images that it has never seen.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from data_tools import generate
from gpg_vl import cli
from gpg_vl.processes.command_line import ScriptParser
from gpg_vl.recipes import load_recipe
from gpg_vl.run.run_log import read_metrics

HOME = Path("runs/quickstart")
RECIPES = Path(__file__).parent / "recipes"
TASKS = ("counting", "geometry", "grounding")
SPLITS = {"test": (256, 1), "validation": (96, 2), "train": (4000, 3)}  # rows and seed of each
DEFAULT_FAMILY = "qwen2_vl"
OF_OTHER_FAMILIES = ["--rollout.max_new_tokens", 44]  # some write more around the numbers of a box
MARKER = ".quickstart"  # marks a folder that may be replaced
SPARKS = "▁▂▃▄▅▆▇█"


def main(argv: Sequence[str] | None = None) -> int:
    parser = ScriptParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the model, the prompts and the samples (default 0)"
    )
    parser.add_argument("--family", default=DEFAULT_FAMILY, help=f"family of the model (default {DEFAULT_FAMILY})")
    parser.add_argument("--out", type=Path, default=HOME, help=f"output folder (default {HOME})")
    options = parser.parse_args(argv)
    if not make_folder(options.out):
        print(f"{options.out} contains something other than this demo; choose another --out", file=sys.stderr)
        return 2
    start = time.perf_counter()
    draw_data(options.out / "data")
    train_model(options.out, options.seed, options.family)
    words = ["report", options.out / "gpg", "--eval", options.out / "before-sampled", options.out / "after-sampled"]
    run("gpg-vl", cli.main, words)
    summary = summarise(options.out, time.perf_counter() - start)
    (options.out / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    show(summary, options.out)
    return 0


def make_folder(out: Path) -> bool:
    """Creates an empty folder, replacing an earlier demo; False if it holds anything that this script did not make."""
    if (out / MARKER).is_file():
        print(f"replacing the earlier demo in {out}")
        shutil.rmtree(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        return False
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).touch()
    return True


def draw_data(folder: Path) -> None:
    for task in TASKS:
        held_out: list[str] = []
        for split, (rows, seed) in SPLITS.items():
            path = f"{folder}/{task}-{split}.parquet"
            exclude = ["--exclude", *held_out] if held_out else []
            words = ["--task", task, "--num", rows, "--seed", seed, "--out", path, *exclude]
            run("python -m data_tools.generate", generate.main, words)
            if split != "train":
                held_out.append(path)


def train_model(out: Path, seed: int, family: str) -> None:
    """Tiny model, warm start, evaluation, GPG, evaluation."""
    run("gpg-vl", cli.main, ["tiny-model", out / "tiny-model", "--family", family, "--seed", seed])
    for recipe, name, state in (
        ("quickstart-warmup.yaml", "warm-start", "before"),
        ("quickstart.yaml", "gpg", "after"),
    ):
        words = ["train", RECIPES / recipe, "--run.seed", seed, *moved_to(out, RECIPES / recipe)]
        words += [] if family == DEFAULT_FAMILY else OF_OTHER_FAMILIES
        run("gpg-vl", cli.main, words)
        evaluate(out, out / name, state)


def moved_to(out: Path, recipe: Path) -> list[str]:
    """The overrides that make a recipe read and write in ``out`` instead of runs/quickstart."""
    if out == HOME:
        return []

    def move(text: str) -> str:
        return text.replace(str(HOME), str(out))

    values = load_recipe(str(recipe))
    words = ["--run.output_dir", move(values.run.output_dir), "--model.path", move(values.model.path)]
    for key, entries in (("data.train", values.data.train), ("data.eval", values.data.eval)):
        words += [f"--{key}", move(json.dumps(entries))] if entries else []
    return words


def evaluate(out: Path, model: Path, name: str) -> None:
    """Evaluates with GPG's own sampling, and greedily."""
    data = [out / "data" / f"{task}-test.parquet" for task in TASKS]
    words = ["eval", model, "--data", *data]
    sampled = ["--evaluation.num_samples", 4, "--evaluation.temperature", 1.0]
    run("gpg-vl", cli.main, [*words, "--out", out / f"{name}-sampled", *sampled])
    run("gpg-vl", cli.main, [*words, "--out", out / f"{name}-greedy"])


def run(command: str, function: Callable[[list[str]], int | None], words: Sequence[Any]) -> None:
    """Prints the command and runs it in this process, which saves the imports of a new one."""
    arguments = [str(word) for word in words]
    print(f"\n$ {command} {shlex.join(arguments)}", flush=True)
    code = function(arguments)
    if code:
        raise SystemExit(code)


def summarise(out: Path, seconds: float) -> dict[str, Any]:
    results = {
        name: json.loads((out / name / "results.json").read_text(encoding="utf-8"))["tasks"]
        for name in ("before-sampled", "after-sampled", "before-greedy", "after-greedy")
    }
    metrics = [row for row in read_metrics(out / "gpg") if "reward" in row]
    tasks = {}
    for task in TASKS:
        before, after = results["before-sampled"][task], results["after-sampled"][task]
        tasks[task] = {
            "metric": before["metric"],
            "before": before["value"],
            "after": after["value"],
            "before_interval": [before["low"], before["high"]],
            "after_interval": [after["low"], after["high"]],
            "greedy_before": results["before-greedy"][task]["value"],
            "greedy_after": results["after-greedy"][task]["value"],
            "n": before["n"],
            "samples_per_image": before["num_samples"],
            "reward_curve": [row["reward_by_task"][task] for row in metrics if task in row["reward_by_task"]],
        }
    return {"seconds": round(seconds, 1), "tasks": tasks}


def show(summary: dict[str, Any], out: Path) -> None:
    table = Table(title="Held-out images, before and after GPG")
    for heading in ("task", "metric", "sampled before", "sampled after", "greedy", "training reward"):
        table.add_column(heading, no_wrap=True)
    for task, row in summary["tasks"].items():
        table.add_row(
            task,
            row["metric"],
            _with_interval(row["before"], row["before_interval"]),
            _with_interval(row["after"], row["after_interval"]),
            f"{row['greedy_before']:.2f} -> {row['greedy_after']:.2f}",
            sparkline(row["reward_curve"]),
        )
    console = Console(width=max(100, Console().width))
    console.print()
    console.print(table)
    row = next(iter(summary["tasks"].values()))
    print(
        f"""\
{row["n"]} images per task, not trained on. sampled: mean of {row["samples_per_image"]} answers at temperature 1,
the number that GPG optimises, with its 95 % interval. greedy: the most likely answer.
{summary["seconds"]:.0f} s in total. The run is {out}/gpg, the numbers are in {out}/summary.json.
Ask it about a new picture:
  .venv/bin/python -m data_tools.generate --task counting --num 3 --seed 9 --out {out}/new/rows.jsonl
  .venv/bin/gpg-vl ask {out}/gpg --image {out}/new/rows_images/1-0.png --question "How many shapes?" \\
    --task counting --answer 3 --n 8
What it learned and what it still gets wrong, with pictures and answers: open {out}/gpg/report.html in a browser."""
    )


def _with_interval(value: float, interval: Sequence[float]) -> str:
    return f"{value:.3f} [{interval[0]:.2f}, {interval[1]:.2f}]"


def sparkline(values: Sequence[float], width: int = 16) -> str:
    """Means of ``width`` equal blocks, scaled from the lowest to the highest."""
    size = max(1, -(-len(values) // width))
    blocks = [values[i : i + size] for i in range(0, len(values), size)]
    means = [sum(block) / len(block) for block in blocks]
    low, high = min(means), max(means)
    return "".join(SPARKS[round((mean - low) / ((high - low) or 1) * (len(SPARKS) - 1))] for mean in means)


if __name__ == "__main__":
    sys.exit(main())
