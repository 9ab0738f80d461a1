"""The update: forward and backward of one group, kit against repeated rows and against TRL.

    python -m benchmarks.update_step [--model 40M] [--shapes 256+28+128x8 ...] [--rounds 7]

``plain`` is the kit's own batch of G repeated rows with the same completion-only chunked log-probs: nothing shared,
everything else equal. TRL is its ``_compute_loss`` on the same frozen completions. The gradients of all three are
compared first. A shape is image tokens + text tokens + completion tokens x group size.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import timing, trl_side
from benchmarks.flops import Lengths, ideal_update_ratio
from benchmarks.gradients import compare_gradients
from benchmarks.groups import build_adapter, draw_group, shape_named
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.processes.command_line import ScriptParser
from gpg_vl.records import TrainingGroup
from gpg_vl.update.packing import build_micro_batch, split_into_rows
from gpg_vl.update.policy import PolicyForward, move_to

SHAPES = ("256+28+128x8", "484+28+64x8", "256+28+64x16")
SIDES = ("kit", "plain", "trl")


def main() -> None:
    parser = ScriptParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="40M")
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES))
    parser.add_argument("--attention", default="auto", help="model.attention of kit and plain")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--name", default="update_step", help="of the results file")
    parser.add_argument("--peak-of", choices=SIDES, help="print the peak memory of one side, MiB")
    options = parser.parse_args()
    shapes = [Lengths.parse(text) for text in options.shapes]
    with tempfile.TemporaryDirectory() as folder:
        dtype = "bfloat16" if torch.cuda.is_available() else "float32"
        adapter = build_adapter(shape_named(options.model), Path(folder), dtype, options.attention)
        if options.peak_of:
            print(timing.measure_peak(build_sides(adapter, shapes[0])[options.peak_of]))
            return
        rows = [measure(adapter, options.model, lengths, options.rounds) for lengths in shapes]
    path = timing.write_results(options.name, rows, options.out)
    columns = ("name", "ratio_vs_plain", "ratio_vs_trl", "ideal_ratio", "share_of_ideal_vs_plain",
               "share_of_ideal_vs_trl", "peak_memory_ratio", "kit", "plain", "trl")  # fmt: skip
    timing.print_table(f"Update, model {options.model}", rows, columns)
    print(path)


def measure(adapter: QwenVLAdapter, model: str, lengths: Lengths, rounds: int) -> dict[str, Any]:
    sides = build_sides(adapter, lengths)
    differences = compare_gradients(adapter, sides)
    seconds = timing.time_in_turn(sides, rounds)
    ideal = ideal_update_ratio(shape_named(model), lengths)
    vs_plain, vs_trl = timing.ratio(seconds, "plain"), timing.ratio(seconds, "trl")
    return {
        "name": f"update_step_{lengths.name}",
        "shape": lengths.option,
        "ratio_vs_plain": vs_plain,
        "ratio_vs_trl": vs_trl,
        "ideal_ratio": ideal,
        "share_of_ideal_vs_plain": vs_plain / ideal,
        "share_of_ideal_vs_trl": vs_trl / ideal,
        **compare_peaks(adapter, model, lengths),
        "gradient_difference": differences,
        **{side: timing.describe(values) for side, values in seconds.items()},
    }


def compare_peaks(adapter: Adapter, model: str, lengths: Lengths) -> dict[str, Any]:
    words = ["--model", model, "--shapes", lengths.option, "--attention", adapter.config.attention]
    return timing.compare_peaks("benchmarks.update_step", words, SIDES)


def build_sides(adapter: QwenVLAdapter, lengths: Lengths) -> dict[str, Callable[[], None]]:
    """Forward and backward of one group, by side; each leaves its gradient on the model."""
    group = draw_group(adapter, lengths)
    forward = PolicyForward(adapter, 1.0)
    forward.train()
    together = split_into_rows(group, 10**6)
    repeated = [
        row
        for c, k in zip(group.completions, group.coefficients, strict=True)
        for row in split_into_rows(replace(group, completions=(c,), coefficients=(k,)), 10**6)
    ]
    kit = move_to(build_micro_batch(together, adapter), adapter.device)
    plain = move_to(build_micro_batch(repeated, adapter), adapter.device)

    def run(batch: Any) -> None:
        adapter.model.zero_grad()
        ((batch.coefficients * forward(batch)).sum() / lengths.group_size).backward()

    return {"kit": lambda: run(kit), "plain": lambda: run(plain), "trl": _trl_work(adapter, group, lengths)}


def _trl_work(adapter: QwenVLAdapter, group: TrainingGroup, lengths: Lengths) -> Callable[[], None]:
    state: dict[str, Any] = {}

    def run() -> None:
        if not state:  # only the side that is asked for pays for the trainer
            state["trainer"] = trl_side.build_trainer(
                adapter, lengths.group_size, lengths.group_size, lengths.completion_tokens
            )
            state["inputs"] = trl_side.loss_inputs(adapter, [group])
            state["trainer"].current_gradient_accumulation_steps = 1
        trainer, inputs = state["trainer"], state["inputs"]
        adapter.model.zero_grad()
        with adapter.autocast():  # as in a run of TRL, where accelerate puts it around the model
            loss = trainer._compute_loss(trainer.model, inputs)
        loss.backward()

    return run


if __name__ == "__main__":
    main()
