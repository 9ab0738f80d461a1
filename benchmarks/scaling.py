"""Cost of the update against group size, image tokens and completion tokens: kit, repeated rows, TRL.

    python -m benchmarks.scaling [--model 40M] [--rounds 3] [--axes group image completion]

Each axis is varied by itself, starting from 144 image + 28 text + 64 completion tokens and 8 completions.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy
import torch

from benchmarks import timing
from benchmarks.flops import Lengths, ideal_update_ratio, shared_flops
from benchmarks.groups import build_adapter, shape_named
from benchmarks.update_step import build_sides, compare_peaks
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.processes.command_line import ScriptParser

AXES = {
    "group": [Lengths(144, 28, 64, g) for g in (2, 4, 8, 16, 32)],
    "image": [Lengths(i, 28, 64, 8) for i in (64, 144, 256, 576, 1024)],
    "completion": [Lengths(144, 28, c, 8) for c in (16, 64, 256, 1024)],
}


def main() -> None:
    parser = ScriptParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="40M")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--axes", nargs="+", choices=list(AXES), default=list(AXES))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dtype = "bfloat16" if torch.cuda.is_available() else "float32"
        adapter = build_adapter(shape_named(options.model), Path(folder), dtype)
        rows = [
            measure(adapter, options.model, axis, lengths, options.rounds)
            for axis in options.axes
            for lengths in AXES[axis]
        ]
    path = timing.write_results("scaling", rows, options.out)
    columns = ("name", "ratio_vs_plain", "ratio_vs_trl", "ideal_ratio", "peak_memory_ratio", "kit", "plain", "trl")
    timing.print_table(f"Update, model {options.model}", rows, columns)
    if "group" in options.axes:
        print(slope_in_group_size(options.model, rows))
    print(path)


def measure(adapter: QwenVLAdapter, model: str, axis: str, lengths: Lengths, rounds: int) -> dict[str, Any]:
    seconds = timing.time_in_turn(build_sides(adapter, lengths), rounds)
    return {
        "name": f"scaling_{axis}_{lengths.name}",
        "axis": axis,
        "shape": lengths.name,
        "group_size": lengths.group_size,
        "ratio_vs_plain": timing.ratio(seconds, "plain"),
        "ratio_vs_trl": timing.ratio(seconds, "trl"),
        "ideal_ratio": ideal_update_ratio(shape_named(model), lengths),
        **compare_peaks(adapter, model, lengths),
        **{side: timing.describe(values) for side, values in seconds.items()},
    }


def slope_in_group_size(model: str, rows: list[dict[str, Any]]) -> str:
    """Measured seconds per additional completion, as a share of a group of 8, and the FLOP model's value."""
    group = [row for row in rows if row["axis"] == "group"]
    sizes = [row["group_size"] for row in group]
    shape = shape_named(model)
    flops = [shared_flops(shape, lengths) for lengths in AXES["group"]]
    shares = {}
    for name, cost in (("kit", [row["kit"]["median"] for row in group]), ("FLOP model", flops)):
        slope, _ = numpy.polyfit(sizes, cost, 1)
        shares[name] = slope * 8 / cost[sizes.index(8)]
    return "slope in G, times 8 over the cost at G=8: " + ", ".join(f"{n} {s:.2f}" for n, s in shares.items())


if __name__ == "__main__":
    main()
