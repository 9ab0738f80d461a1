"""What checkpoints cost a run that goes on while they are written.

    python -m benchmarks.saving [--model 40M] [--steps 12] [--save-every 4] [--rounds 3]

The same run twice in turn, with checkpoints and without. The first checkpoint and the steps before it do not count: it
is loaded to check it, and the run waits for that once. ``throughput`` is the share of the steps per second that is left
while checkpoints are written: copies, writing, hashing and sealing, one checkpoint in every few steps.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import timing
from benchmarks.objectives import save_model
from data_tools.generate import draw_samples
from gpg_vl.callbacks import Callbacks
from gpg_vl.config import DataConfig, ModelConfig, ObjectiveConfig, Recipe, RewardsConfig, RolloutConfig, RunConfig
from gpg_vl.data.sources import write_jsonl
from gpg_vl.processes.command_line import ScriptParser
from gpg_vl.train import train

REWARD = """
def length(completions, **kwargs):
    return [len(messages[0]["content"]) % 7 / 7 for messages in completions]
"""
"""Random weights answer nothing right; with it every group has a signal."""


def main() -> None:
    parser = ScriptParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="40M")
    parser.add_argument("--steps", type=int, default=12, help="that are timed")
    parser.add_argument("--save-every", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    every, last = options.save_every, options.save_every + options.steps
    seconds: dict[str, list[float]] = {"with": [], "without": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(options.model, folder / "model")
        (folder / "own.py").write_text(REWARD)
        write_jsonl(draw_samples("counting", 64, seed=0), folder / "rows.jsonl")
        for _ in range(options.rounds):
            for side, save_every in (("with", every), ("without", last + every)):
                seconds[side].append(time_run(recipe_for(folder, last + 1, save_every), range(every, last)))
    row: dict[str, Any] = {"model": options.model, "save_every": every, "steps": options.steps}
    row |= {side: timing.describe(taken) for side, taken in seconds.items()}
    row["throughput"] = statistics.median(b / a for a, b in zip(seconds["with"], seconds["without"], strict=True))
    path = timing.write_results("saving", [row], options.out)
    title = f"{options.steps} steps of model {options.model}, a checkpoint every {every}"
    timing.print_table(title, [row], ("throughput", "with", "without"))
    print(path)


def recipe_for(folder: Path, steps: int, save_every: int) -> Recipe:
    return Recipe(
        model=ModelConfig(path=str(folder / "model"), dtype="float32", max_pixels=50176),
        data=DataConfig(train=[str(folder / "rows.jsonl")]),
        rollout=RolloutConfig(prompts_per_step=4, group_size=8, max_new_tokens=32),
        rewards=RewardsConfig(functions=[f"{folder}/own.py:length"]),
        objective=ObjectiveConfig(beta_th=0.0),
        run=RunConfig(steps=steps, save_every=save_every, output_dir=str(folder / "run"), trackers=[]),
    )


def time_run(recipe: Recipe, steps: range) -> float:
    """Seconds from the end of the step before the first of them to the end of the last one."""
    ends: dict[int, float] = {}
    train(recipe, callbacks=Callbacks(on_step=lambda step, _: ends.update({step: time.perf_counter()})))
    shutil.rmtree(recipe.run.output_dir)
    return ends[steps.stop] - ends[steps.start]


if __name__ == "__main__":
    main()
