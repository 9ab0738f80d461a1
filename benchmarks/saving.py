"""The steps of a run while a checkpoint is written, against the same steps without; the 40 M model on a CPU.

    python -m benchmarks.saving --steps 16 --save-every 4

Two runs take the same steps from the same seed. One saves every few steps, the other in the end alone. Compared are the
steps after the second save and later ones: the first is waited for. What a step waits for its checkpoint counts.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.objectives import save_model
from data_tools.generate import draw_samples
from gpg_vl.api import train
from gpg_vl.data.sources import write_parquet
from gpg_vl.processes.command_line import ScriptParser
from gpg_vl.run.run_log import read_metrics

REWARD = """
def noise(completions, **kwargs):
    return [sum(map(ord, messages[0]["content"])) % 97 / 97 for messages in completions]
"""


def make_recipe(folder: Path, model: str, steps: int) -> dict[str, Any]:
    save_model(model, folder / "model")
    (folder / "reward.py").write_text(REWARD)
    write_parquet(draw_samples("counting", 24, seed=0), folder / "rows.parquet")
    return {
        "model": {"path": str(folder / "model"), "dtype": "float32", "min_pixels": 784, "max_pixels": 50176},
        "task": "counting",
        "data": {"train": [str(folder / "rows.parquet")]},
        "rewards": {"functions": [f"{folder}/reward.py:noise"]},
        "rollout": {"prompts_per_step": 4, "group_size": 4, "max_new_tokens": 32},
        "objective": {"beta_th": 0.0},
        "run": {"steps": steps, "eval_every": 0, "trackers": [], "save_total_limit": 2},
    }


def seconds_of_steps(recipe: dict[str, Any], output_dir: Path, save_every: int) -> list[float]:
    """Of each step, with what it waited for a checkpoint before it."""
    train(recipe, {"run.output_dir": str(output_dir), "run.save_every": save_every})
    rows = [row["seconds"] for row in read_metrics(output_dir)]
    return [seconds["step"] + seconds.get("saving", 0.0) for seconds in rows]


def measure(folder: Path, model: str, steps: int, save_every: int) -> float:
    """Prints both, and returns the throughput of the saving run as a share of the other's."""
    recipe = make_recipe(folder, model, steps)
    without = seconds_of_steps(recipe, folder / "without", steps)
    saving = seconds_of_steps(recipe, folder / "saving", save_every)
    first = 2 * save_every  # steps that come after the second save
    print("step  without  saving")
    for number, (one, other) in enumerate(zip(without, saving, strict=True), start=1):
        print(f"{number:>4} {one:>8.2f} {other:>7.2f}")
    behind = [saving[number] / without[number] for number in range(first, steps, save_every)]
    print(f"a step right after a save takes {statistics.median(behind):.2f} of the same step without")
    return sum(without[first:]) / sum(saving[first:])


def main(argv: Sequence[str] | None = None) -> int:
    parser = ScriptParser(prog="python -m benchmarks.saving", description=str(__doc__).splitlines()[0])
    parser.add_argument("--model", default="40M")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--save-every", type=int, default=4)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        share = measure(Path(folder), options.model, options.steps, options.save_every)
    print(f"throughput while saving: {share:.2f} of that without")
    return 0


if __name__ == "__main__":
    sys.exit(main())
