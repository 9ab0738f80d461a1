"""Time and memory of each rank, sharded and not: ``python -m benchmarks.ranks --out FOLDER [--shape 40M]``.

Trains on generated rows with ``scripts/train.sh``, two processes per layout. Memory is read from /proc for each rank's
process every 0.2 s: the peak, which is determined by loading the whole model, and the median during training.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.groups import build_adapter, shape_named
from data_tools.generate import draw_samples
from gpg_vl.data.sources import write_parquet
from gpg_vl.processes.command_line import ScriptParser
from gpg_vl.run.run_log import read_metrics

LAUNCHER = Path(__file__).parent.parent / "scripts/train.sh"
WARM_UP = 2  # steps


def main(argv: Sequence[str] | None = None) -> None:
    parser = ScriptParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the model, the rows and the runs")
    parser.add_argument("--shape", default="40M", help="shape of the random model (benchmarks/models.py)")
    parser.add_argument("--steps", type=int, default=8, help=f"steps of each run; the first {WARM_UP} are ignored")
    parser.add_argument("--ranks", type=int, default=2)
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    recipe = write_recipe(options.out, options.shape, options.steps)
    layouts = ("none", "fsdp", "zero2", "zero3")
    rows = [measure(options.out, recipe, sharding, options.ranks) for sharding in layouts]
    (options.out / "bench_ranks.json").write_text(json.dumps({"shape": options.shape, "rows": rows}, indent=1))
    print(f"{'layout':<8} {'step, s (min..max)':>24} {'update, s':>10} {'training, MiB':>16} {'peak, MiB':>16}")
    for row in rows:
        step = f"{row['step_s']:.2f} ({row['step_min_s']:.2f}..{row['step_max_s']:.2f})"
        memory = [" ".join(f"{mib:.0f}" for mib in row[key]) for key in ("training_mib", "peak_mib")]
        print(f"{row['layout']:<8} {step:>24} {row['update_s']:>10.2f} {memory[0]:>16} {memory[1]:>16}")


def write_recipe(out: Path, shape: str, steps: int) -> Path:
    adapter = build_adapter(shape_named(shape), out / "model")
    adapter.save(out / "model")
    write_parquet(draw_samples("counting", 64, seed=0), out / "rows.parquet")
    (out / "reward.py").write_text(
        "def spread(completions, **kwargs):\n    return [n % 2 for n in range(len(completions))]\n"
    )
    recipe = {
        "model": {"path": str(out / "model"), "dtype": "float32", "min_pixels": 784, "max_pixels": 50176},
        "data": {"train": [str(out / "rows.parquet")]},
        "prompt": {"template": "{question}"},
        "rewards": {"functions": [f"{out / 'reward.py'}:spread"]},
        "rollout": {"prompts_per_step": 4, "group_size": 4, "max_new_tokens": 16},
        "run": {"steps": steps, "save_every": 10_000, "trackers": []},
    }
    path = out / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    return path


def measure(out: Path, recipe: Path, sharding: str, num_ranks: int) -> dict[str, Any]:
    folder = out / f"run-{sharding}-{time.time_ns()}"
    environment = {**os.environ, "SHARDING": sharding, "NUM_PROCESSES": str(num_ranks), "PYTHON": sys.executable}
    with (out / f"{sharding}.log").open("w") as log:
        run = subprocess.Popen(
            [str(LAUNCHER), str(recipe), "--run.output_dir", str(folder)], env=environment, stdout=log, stderr=log
        )
        peak, training = watch_memory(run, folder / "metrics.jsonl")
    if run.returncode:
        raise SystemExit(f"the run failed; see {log.name}")
    seconds = [row["seconds"] for row in read_metrics(folder)][WARM_UP:]
    steps = [each["step"] for each in seconds]
    return {
        "layout": sharding,
        "step_s": statistics.median(steps),
        "step_min_s": min(steps),
        "step_max_s": max(steps),
        "update_s": statistics.median(each["update"] for each in seconds),
        "training_mib": [statistics.median(values) / 1024 for _, values in sorted(training.items())],
        "peak_mib": [value / 1024 for _, value in sorted(peak.items())],
    }


def watch_memory(run: subprocess.Popen[bytes], metrics: Path) -> tuple[dict[int, int], dict[int, list[int]]]:
    """By process, in KiB: the peak, and the resident memory at each reading after the warm-up."""
    peak: dict[int, int] = {}
    training: dict[int, list[int]] = {}
    while run.poll() is None:
        is_warm = metrics.is_file() and metrics.read_text().count("\n") >= WARM_UP
        for process, memory in read_ranks(run.pid).items():
            peak[process] = memory["VmHWM"]
            if is_warm:
                training.setdefault(process, []).append(memory["VmRSS"])
        time.sleep(0.2)
    return peak, training


def read_ranks(launcher: int) -> dict[int, dict[str, int]]:
    """Memory in KiB of each of the launcher's children."""
    found = {}
    for process in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        try:
            if b"gpg_vl\0train" not in Path(f"/proc/{process}/cmdline").read_bytes():
                continue
            lines = Path(f"/proc/{process}/status").read_text().splitlines()
        except OSError:  # the process has just ended
            continue
        values = {key: value.split()[0] for key, value in (line.split(":", 1) for line in lines) if value.strip()}
        if "VmHWM" in values:
            found[int(process)] = {key: int(values[key]) for key in ("VmHWM", "VmRSS")}
    return found


if __name__ == "__main__":
    main()
