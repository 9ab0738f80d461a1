"""Where a step's time goes on 1 to 512 GPUs, by the model of ``gpg-vl plan``: the tables of docs/scale.md.

    python -m benchmarks.scale [--model Qwen2.5-VL-3B] [--gpu h100-80]

Nothing is measured: the model runs as shapes, and seconds follow from rates (``gpg_vl.planning.seconds``). A step has
512 prompts on any number of GPUs, so what does not shrink with them is seen.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from benchmarks.flops import Lengths
from benchmarks.groups import build_adapter, draw_prompt, shape_named
from benchmarks.models import QWEN2_5_VL_3B, QWEN2_5_VL_7B, QWEN2_5_VL_32B
from gpg_vl.config import ModelConfig, Recipe, RolloutConfig
from gpg_vl.models.qwen_vl import QwenVLAdapter
from gpg_vl.planning.cards import Card, find_card
from gpg_vl.planning.layouts import rounds_weights
from gpg_vl.planning.memory import Runs, memory_of, run_phases, size_of
from gpg_vl.planning.plan import Machine, cheapest_layout, flops_of
from gpg_vl.planning.rows import PromptLengths
from gpg_vl.planning.seconds import seconds_of, total, work_of
from gpg_vl.planning.trial_groups import longest_groups, prompts_at_once, share_of
from gpg_vl.processes.sharding import LayoutName
from gpg_vl.run.speed import GIB

GPUS = (1, 8, 16, 64, 256, 512)
PROMPTS = 512
LENGTHS = Lengths(image_tokens=512, text_tokens=88, completion_tokens=256, group_size=8)
PHASES = ("data", "rollout", "update", "exchange", "step", "checkpoint")


def describe_model(name: str, card: Card) -> Iterator[str]:
    """A line for each number of GPUs."""
    recipe = Recipe(
        model=ModelConfig(gradient_checkpointing=True),
        rollout=RolloutConfig("hf", PROMPTS, LENGTHS.group_size, LENGTHS.completion_tokens),
    )
    load = cache(partial(_build, name))
    adapter = load(rounds_weights("none", recipe.model))
    prompt = draw_prompt(adapter, LENGTHS)
    size, group = size_of(adapter), longest_groups(prompt, recipe.rollout, adapter, 1)[0]
    flops = flops_of(adapter, group)
    rows = PromptLengths((LENGTHS.prompt_tokens,), 0, 1.0, prompt)
    run = cache(lambda is_rounded: run_phases(recipe, load(is_rounded), rows, num_ranks=8))
    for num in GPUS:
        run_fewer = partial(_on, recipe, run, num)
        layout = cheapest_layout(recipe, size, run_fewer, Machine(card, num, "none"))
        if layout is None:
            yield f"| {num} | does not fit |" + " |" * (len(PHASES) + 2)
            continue
        fewer = run_fewer(rounds_weights(layout, recipe.model))
        memory = memory_of(recipe, size, fewer, layout, num)
        seconds = seconds_of(recipe, size, fewer, work_of(flops, recipe, num, 1.0), card, layout, num)
        yield _line(num, layout, memory.peak, seconds)


def _build(name: str, is_rounded: bool) -> QwenVLAdapter:
    with tempfile.TemporaryDirectory() as folder:
        adapter = build_adapter(shape_named(name), Path(folder), "bfloat16", device="meta", gradient_checkpointing=True)
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


def _line(num: int, layout: LayoutName, peak: int, seconds: dict[str, float]) -> str:
    cells = " | ".join(f"{seconds[phase]:.1f}" for phase in PHASES)
    return f"| {num} | {layout} | {peak / GIB:.0f} | {cells} | {total(seconds):.1f} |"


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    names = [shape.name for shape in (QWEN2_5_VL_3B, QWEN2_5_VL_7B, QWEN2_5_VL_32B)]
    parser.add_argument("--model", nargs="+", default=names)
    parser.add_argument("--gpu", default="h100-80")
    options = parser.parse_args(argv)
    for name in options.model:
        print(f"\n{name}\n\n| GPUs | layout | GiB | {' | '.join(PHASES)} | together |", flush=True)
        print("|---" * (len(PHASES) + 4) + "|", flush=True)
        for line in describe_model(name, find_card(options.gpu)):
            print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
