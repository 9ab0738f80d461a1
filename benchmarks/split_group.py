"""The update of a group that is longer than a micro-batch: its prompt kept for the parts, or run again with each.

    python -m benchmarks.split_group [--model 40M] [--shape 256+28+128x8] [--parts 4] [--rounds 7]

``whole`` is the group in one pass; ``kept`` and ``again`` cut it into equal parts. Each is forward and backward, as the
update runs them. The gradients are compared first.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import timing
from benchmarks.flops import Lengths
from benchmarks.gradients import compare_gradients
from benchmarks.groups import build_adapter, draw_group, shape_named
from gpg_vl.models.adapter import Adapter
from gpg_vl.processes.command_line import ScriptParser
from gpg_vl.update.kept_prompts import KeptPrompts, build_part
from gpg_vl.update.packing import PackedRow, build_micro_batch, plan_micro_batches
from gpg_vl.update.policy import PolicyForward, move_to

SIDES = ("whole", "kept", "again")


def main() -> None:
    parser = ScriptParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="40M")
    parser.add_argument("--shape", default="256+28+128x8")
    parser.add_argument("--parts", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--peak-of", choices=SIDES, help="print the peak memory of one side, MiB")
    options = parser.parse_args()
    lengths = Lengths.parse(options.shape)
    with tempfile.TemporaryDirectory() as folder:
        dtype = "bfloat16" if torch.cuda.is_available() else "float32"
        adapter = build_adapter(shape_named(options.model), Path(folder), dtype)
        sides = build_sides(adapter, lengths, options.parts)
        if options.peak_of:
            print(timing.measure_peak(sides[options.peak_of]))
            return
        row = measure(adapter, sides, options)
    path = timing.write_results("split_group", [row], options.out)
    columns = ("name", "kept_vs_whole", "again_vs_whole", "peak_kept_vs_again", *SIDES)
    timing.print_table(f"Split group, model {options.model}", [row], columns)
    print(path)


def measure(adapter: Adapter, sides: dict[str, Callable[[], None]], options: Any) -> dict[str, Any]:
    words = ["--model", options.model, "--shape", options.shape, "--parts", options.parts]
    differences = compare_gradients(adapter, sides, "whole")
    seconds = timing.time_in_turn(sides, options.rounds)
    peaks = timing.measure_peaks("benchmarks.split_group", words, SIDES)
    return {
        "name": f"{options.shape} in {options.parts} parts",
        "kept_vs_whole": timing.ratio(seconds, "kept", "whole"),
        "again_vs_whole": timing.ratio(seconds, "again", "whole"),
        "peak_kept_vs_again": peaks["kept"] / peaks["again"],
        "peak_memory_mib": peaks,
        "gradient_difference": differences,
        **{side: timing.describe(values) for side, values in seconds.items()},
    }


def build_sides(adapter: Adapter, lengths: Lengths, num_parts: int) -> dict[str, Callable[[], None]]:
    """Forward and backward of one group, by side; each leaves its gradient on the model."""
    group = draw_group(adapter, lengths)
    forward = PolicyForward(adapter, 1.0)
    forward.train()
    budget = lengths.prompt_tokens + lengths.completion_tokens * -(-lengths.group_size // num_parts)
    kept, again = (plan_micro_batches([group], budget, 10**9, keeps_prompts=keeps) for keeps in (True, False))
    assert len(kept) == len(again) == num_parts, f"the parts are {len(kept)}"
    plans = {"whole": plan_micro_batches([group], 10**9, 10**9), "kept": kept, "again": again}
    return {name: partial(run, adapter, forward, plan) for name, plan in plans.items()}


def run(adapter: Adapter, forward: PolicyForward, plan: list[list[PackedRow]]) -> None:
    for _, parameter in adapter.trainable_parameters():
        parameter.grad = None
    prompts = KeptPrompts(adapter)
    for rows in plan:
        prompt = prompts.before(rows)
        batch = build_micro_batch(rows, adapter) if prompt is None else build_part(rows[0], adapter)
        batch = move_to(batch, adapter.device)
        (batch.coefficients * forward(batch, prompt)).sum().backward()
        prompts.after(rows)


if __name__ == "__main__":
    main()
