"""What an objective adds to GPG's update: time and peak memory, on the same groups.

    python -m benchmarks.objectives [--model 40M] [--shape 256+28+128x8] [--groups 2] [--rounds 5] [--objectives ...]

``first`` is the update of a rollout that is followed once: log-probs where the objective reads any, coefficients,
forward, backward. ``later`` is a later update of a rollout that is followed several times. Peak memory is that of a
process of its own, the model of the reference included, above what the policy held before.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from benchmarks import timing
from benchmarks.flops import Lengths
from benchmarks.groups import build_adapter, draw_group, shape_named
from gpg_vl.config import ModelConfig, ObjectiveConfig, Recipe, UpdateConfig
from gpg_vl.models import load_adapter
from gpg_vl.objectives import OBJECTIVES, build_objective
from gpg_vl.processes.command_line import ScriptParser
from gpg_vl.records import CollectedGroups, Reward, ScoredGroup
from gpg_vl.update.learner import Learner

NAMES = [name for name in OBJECTIVES if name != "supervised"]
WITH_REFERENCE = "grpo+kl"


def main() -> None:
    parser = ScriptParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="40M")
    parser.add_argument("--shape", default="256+28+128x8")
    parser.add_argument("--groups", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--objectives", nargs="+", default=[*NAMES, WITH_REFERENCE])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--peak-of", help="print the peak memory of one objective, MiB")
    options = parser.parse_args()
    lengths = Lengths.parse(options.shape)
    with tempfile.TemporaryDirectory() as folder:
        save_model(options.model, Path(folder))
        if options.peak_of:
            bench = Bench(Path(folder), options.peak_of, lengths, options.groups)
            print(timing.measure_peak(lambda: bench.open()()))
            return
        rows = measure(Path(folder), options.objectives, lengths, options.groups, options.rounds)
    words = ["--model", options.model, "--shape", lengths.option, "--groups", options.groups]
    peaks = timing.measure_peaks("benchmarks.objectives", words, options.objectives)
    for row in rows:
        row["peak_mib"] = peaks[row["name"]]
        row["peak_vs_gpg"] = peaks[row["name"]] / peaks["gpg"]
    path = timing.write_results("objectives", rows, options.out)
    columns = ("name", "vs_gpg", "later_vs_gpg", "peak_vs_gpg", "first", "later", "peak_mib")
    timing.print_table(f"Update, model {options.model}, {options.groups} groups of {lengths.option}", rows, columns)
    print(path)


def save_model(model: str, folder: Path) -> None:
    """What policy and reference are loaded from."""
    with tempfile.TemporaryDirectory() as processor:
        build_adapter(shape_named(model), Path(processor)).save(folder)


class Bench:
    """The update of one objective on random groups of random rewards."""

    def __init__(self, folder: Path, name: str, lengths: Lengths, num_groups: int):
        self._folder = folder
        dtype: Any = "bfloat16" if torch.cuda.is_available() else "float32"
        self._model = ModelConfig(path=str(folder), dtype=dtype, min_pixels=784, max_pixels=10**7)
        keys: dict[str, Any] = {"name": "grpo", "kl_coefficient": 0.04} if name == WITH_REFERENCE else {"name": name}
        if name == "reinforce_rej":
            keys["reward_range"] = (-4.0, 4.0)
        config = ObjectiveConfig(**keys)
        self._allows_reuse = build_objective(config, 1).allows_reuse
        update = UpdateConfig(epochs_per_rollout=2 if self._allows_reuse else 1)
        self._recipe = Recipe(model=self._model, objective=config, update=update)
        self._objective = build_objective(config, lengths.completion_tokens, is_reused=False)
        self._reused = build_objective(config, lengths.completion_tokens, self._allows_reuse)
        self._accelerator = Accelerator()
        self._adapter = load_adapter(self._model)
        self._adapter.to(self._accelerator.device)
        self._groups = [self._draw(lengths, seed) for seed in range(num_groups)]

    def _draw(self, lengths: Lengths, seed: int) -> ScoredGroup:
        drawn = draw_group(self._adapter, lengths, seed)  # type: ignore[arg-type]
        generator = torch.Generator().manual_seed(seed)
        rewards = torch.rand(lengths.group_size, generator=generator).tolist()
        return ScoredGroup(drawn.prompt, drawn.completions, tuple(Reward(each, {}, "ok") for each in rewards))

    def open(self) -> Callable[[], None]:
        """The first update of a rollout that is followed once."""
        learner = self._learner(self._objective)

        def update() -> None:
            rollout = learner.open_rollout(1, self._collected(self._objective))
            learner.accumulate_gradient(rollout)
            learner.layout.clear()

        return update

    def later(self) -> Callable[[], None] | None:
        """A later update, the log-probs that stay the same being known."""
        if not self._allows_reuse:
            return None
        learner = self._learner(self._reused)
        rollout = learner.open_rollout(1, self._collected(self._reused))
        rollout.num_done = 1

        def update() -> None:
            learner.accumulate_gradient(rollout)
            learner.layout.clear()

        return update

    def _learner(self, objective: Any) -> Learner:
        learner = Learner(self._recipe, objective, self._adapter, self._accelerator)
        learner._is_checked = True  # the self-check is of the first step alone
        return learner

    def _collected(self, objective: Any) -> CollectedGroups:
        totals = objective.count(self._groups, self._groups)
        return CollectedGroups(self._groups, list(range(len(self._groups))), self._groups, [], totals, 1, 0.0, 0.0)


def measure(folder: Path, names: list[str], lengths: Lengths, num_groups: int, rounds: int) -> list[dict[str, Any]]:
    """Each objective in turn with GPG: two models are in memory at a time."""
    rows = []
    for name in names:
        sides = {"gpg": Bench(folder, "gpg", lengths, num_groups).open()}
        bench = Bench(folder, name, lengths, num_groups)
        sides["first"] = bench.open()
        if (later := bench.later()) is not None:
            sides["later"] = later
        seconds = timing.time_in_turn(sides, rounds)
        row: dict[str, Any] = {"name": name, "first": timing.describe(seconds["first"])}
        row["vs_gpg"] = timing.ratio(seconds, "first", "gpg")
        if "later" in seconds:
            row |= {"later": timing.describe(seconds["later"]), "later_vs_gpg": timing.ratio(seconds, "later", "gpg")}
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
