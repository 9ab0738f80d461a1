"""Where a step's time goes on 1 to 512 GPUs, by the model of ``gpg-vl plan``: the tables of docs/scale.md.

With ``--layouts``, which layout fits on one card, on one machine and on two: the table of docs/gpu.md.

    python -m benchmarks.scale [--model Qwen2.5-VL-3B] [--gpu h100-80] [--layouts]

Nothing is measured: the model runs as shapes, and seconds follow from rates (``gpg_vl.planning.seconds``). A step has
512 prompts on any number of GPUs, so what does not shrink with them is seen.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from benchmarks.flops import Lengths
from benchmarks.groups import build_adapter, draw_prompt, shape_named
from benchmarks.models import QWEN2_5_VL_3B, QWEN2_5_VL_7B, QWEN2_5_VL_32B
from gpg_vl.config import LoraConfig, ModelConfig, Recipe, RolloutConfig
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.planning.cards import Card, find_card
from gpg_vl.planning.layouts import rounds_weights
from gpg_vl.planning.memory import Runs, run_phases, size_of
from gpg_vl.planning.plan import GB, Machine, cheapest_layout, flops_of
from gpg_vl.planning.rows import PromptLengths
from gpg_vl.planning.seconds import seconds_of, total, work_of
from gpg_vl.planning.trial_groups import longest_groups, prompts_at_once, share_of
from gpg_vl.processes.sharding import LayoutName
from gpg_vl.run.speed import GIB

GPUS = (1, 8, 16, 64, 256, 512)
PROMPTS = 512
FEWER_PROMPTS = 128
"""Of the table of layouts: a step of one card has to end."""
TRAININGS = {"full": None, "LoRA": LoraConfig(), "QLoRA": LoraConfig(quantize="nf4")}
LENGTHS = Lengths(image_tokens=512, text_tokens=88, completion_tokens=256, group_size=8)
PHASES = ("data", "rollout", "update", "exchange", "step", "checkpoint")


@dataclass(frozen=True, slots=True)
class Found:
    """The cheapest layout that fits."""

    layout: LayoutName
    gib: float  # of a card, at the worst moment
    host_gb: float  # of each machine's memory
    seconds: dict[str, float]  # of a step, by phase


class Planner:
    """Plans of one model on any number of cards."""

    def __init__(self, name: str, card: Card, lora: LoraConfig | None = None, prompts: int = PROMPTS):
        self._card = card
        self._recipe = Recipe(
            model=ModelConfig(gradient_checkpointing=True, lora=lora),
            rollout=RolloutConfig("hf", prompts, LENGTHS.group_size, LENGTHS.completion_tokens),
        )
        load = cache(partial(_build, name, lora))
        adapter = load(rounds_weights("none", self._recipe.model))
        prompt = draw_prompt(adapter, LENGTHS)
        self._size = size_of(adapter)
        self._flops = flops_of(adapter, longest_groups(prompt, self._recipe.rollout, adapter, 1)[0])
        rows = PromptLengths((LENGTHS.prompt_tokens,), 0, 1.0, prompt)
        self._run = cache(lambda is_rounded: run_phases(self._recipe, load(is_rounded), rows, num_ranks=8))

    def on(self, num: int) -> Found | None:
        """On so many cards, eight to a machine; None if nothing fits."""
        recipe, size = self._recipe, self._size
        run = partial(_on, recipe, self._run, num)
        fitting = cheapest_layout(recipe, size, run, Machine(self._card, num, "none"))
        if fitting is None:
            return None
        runs = run(rounds_weights(fitting.layout, recipe.model))
        work = work_of(self._flops, recipe, num, 1.0)
        seconds = seconds_of(recipe, size, runs, work, self._card, fitting.layout, num)
        return Found(fitting.layout, fitting.memory.peak / GIB, fitting.memory.host / GB, seconds)


def describe_model(name: str, card: Card) -> Iterator[str]:
    """A line for each number of GPUs."""
    planner = Planner(name, card)
    for num in GPUS:
        found = planner.on(num)
        if found is None:
            yield f"| {num} | does not fit |" + " |" * (len(PHASES) + 2)
            continue
        cells = " | ".join(f"{found.seconds[phase]:.1f}" for phase in PHASES)
        yield f"| {num} | {found.layout} | {found.gib:.0f} | {cells} | {total(found.seconds):.1f} |"


def describe_layouts(name: str, card: Card) -> Iterator[str]:
    """A line for each way to train."""
    for training, lora in TRAININGS.items():
        planner = Planner(name, card, lora, FEWER_PROMPTS)
        cells = [_cell(planner.on(num)) for num in GPUS[:3]]
        yield f"| {name} | {training} | {' | '.join(cells)} |"


def _cell(found: Found | None) -> str:
    """Layout, memory of a card, memory of each machine, and seconds of a step."""
    if found is None:
        return "-"
    return f"`{found.layout}`, {found.gib:.0f} GiB, {found.host_gb:.0f} GB, {total(found.seconds):.0f} s"


def _build(name: str, lora: LoraConfig | None, is_rounded: bool) -> QwenVLAdapter:
    with tempfile.TemporaryDirectory() as folder:
        adapter = build_adapter(
            shape_named(name), Path(folder), "bfloat16", device="meta", lora=lora, gradient_checkpointing=True
        )
    if is_rounded:
        adapter.round_weights()
    return adapter


def _on(recipe: Recipe, run: Callable[[bool], Runs], num_ranks: int, is_rounded: bool) -> Runs:
    """With as many rollout batches and micro-batches as a rank has then."""
    runs = run(is_rounded)
    num = share_of(recipe.rollout.prompts_per_step, num_ranks)
    together = prompts_at_once(recipe.rollout, LENGTHS.prompt_tokens, PROMPTS)
    rows = recipe.update.tokens_per_micro_batch // (
        LENGTHS.prompt_tokens + LENGTHS.group_size * (LENGTHS.completion_tokens - 1)
    )
    return Runs(replace(runs.rollout, count=-(-num // together)), replace(runs.update, count=-(-num // max(1, rows))))


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    names = [shape.name for shape in (QWEN2_5_VL_3B, QWEN2_5_VL_7B, QWEN2_5_VL_32B)]
    parser.add_argument("--model", nargs="+", default=names)
    parser.add_argument("--gpu", default="h100-80")
    parser.add_argument(
        "--layouts", action="store_true", help="which layout on which cards, full, LoRA and QLoRA, instead"
    )
    options = parser.parse_args(argv)
    if options.layouts:
        _print_layouts(options.model, find_card(options.gpu))
        return
    for name in options.model:
        print(f"\n{name}\n\n| GPUs | layout | GiB | {' | '.join(PHASES)} | together |", flush=True)
        print("|---" * (len(PHASES) + 4) + "|", flush=True)
        for line in describe_model(name, find_card(options.gpu)):
            print(line, flush=True)


def _print_layouts(names: Sequence[str], card: Card) -> None:
    print(
        f"| model | trained | 1 x {card.name} | 8 x {card.name} | 2 x 8 x {card.name} |\n|---|---|---|---|---|",
        flush=True,
    )
    for name in names:
        for line in describe_layouts(name, card):
            print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
