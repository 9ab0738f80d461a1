"""The update of groups of different lengths: several in a row, or a padded row for each.

    python -m benchmarks.joined_groups [--model 40M] [--budget 2048] [--groups 6] [--rounds 7]

Forward and backward of all groups, in the micro-batches that the update would plan. The gradients are compared first.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks import timing
from benchmarks.flops import Lengths
from benchmarks.gradients import compare_gradients
from benchmarks.groups import build_adapter, draw_group, shape_named
from benchmarks.split_group import run
from gpg_vl.models.adapter import Adapter
from gpg_vl.processes.command_line import ScriptParser
from gpg_vl.records import TrainingGroup
from gpg_vl.update.packing import plan_micro_batches
from gpg_vl.update.policy import PolicyForward

IMAGE_TOKENS = (64, 144, 256)
GROUP_SIZE = 8
LONGEST = 64
"""Completions of a group have up to so many tokens."""


def main() -> None:
    parser = ScriptParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="40M")
    parser.add_argument("--budget", type=int, default=2048)
    parser.add_argument("--groups", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dtype = "bfloat16" if torch.cuda.is_available() else "float32"
        adapter = build_adapter(shape_named(options.model), Path(folder), dtype)
        row = measure(adapter, options.budget, options.groups, options.rounds)
    path = timing.write_results("joined_groups", [row], options.out)
    columns = ("name", "padded_vs_joined", "passes", "tokens", "joined", "padded")
    timing.print_table(f"Groups in a row, model {options.model}", [row], columns)
    print(path)


def measure(adapter: Adapter, budget: int, num_groups: int, rounds: int) -> dict[str, Any]:
    groups = [draw_mixed(adapter, seed) for seed in range(num_groups)]
    joined = plan_micro_batches(groups, budget, 10**9, joins_groups=True)
    padded = plan_micro_batches(groups, budget, 10**9)
    forward = PolicyForward(adapter, 1.0)
    forward.train()

    def in_rows() -> None:
        with one_group_a_row(adapter):
            run(adapter, forward, padded)

    sides: dict[str, Callable[[], None]] = {"joined": lambda: run(adapter, forward, joined), "padded": in_rows}
    differences = compare_gradients(adapter, sides, "padded")
    seconds = timing.time_in_turn(sides, rounds)
    num_padded = sum(len(rows) * max(row.num_tokens for row in rows) for rows in padded)
    num_joined = sum(row.num_tokens for rows in joined for row in rows)
    return {
        "name": f"{num_groups} groups, budget {budget}",
        "padded_vs_joined": timing.ratio(seconds, "padded", "joined"),
        "passes": f"{len(joined)} / {len(padded)}",
        "tokens": f"{num_joined} / {num_padded}",
        "gradient_difference": differences,
        **{side: timing.describe(values) for side, values in seconds.items()},
    }


def draw_mixed(adapter: Adapter, seed: int) -> TrainingGroup:
    """Completions of a quarter of the longest to the longest, differently long from group to group."""
    draws = torch.Generator().manual_seed(seed)
    longest = LONGEST * (1 + seed % 4) // 4
    lengths = torch.randint(longest // 4, longest + 1, (GROUP_SIZE,), generator=draws).tolist()
    shape = Lengths(IMAGE_TOKENS[seed % len(IMAGE_TOKENS)], 28, longest, GROUP_SIZE)
    return draw_group(adapter, shape, seed, lengths)


@contextmanager
def one_group_a_row(adapter: Adapter) -> Iterator[None]:
    """Within, the adapter says that it cannot join groups."""
    type(adapter).joins_groups = property(lambda self: False)  # type: ignore[assignment]
    try:
        yield
    finally:
        del type(adapter).joins_groups  # that of its base class is there again


if __name__ == "__main__":
    main()
