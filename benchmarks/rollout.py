"""The rollout: kit against plain generate of repeated rows and against TRL's path.

    python -m benchmarks.rollout [--model 40M] [--rounds 5]

The first row decodes one prompt, all completions of one length. ``bound`` is what sharing alone can give: TRL's time
over TRL's time less what vision and prefill of G rows take more than those of one row, each measured in the same run.
A decode step is what each token more than the first takes. The last rows decode 8 prompts together, completion lengths
from a fixed list in 4..256, even or with a long tail: there rows that are finished leave the kit's batch. On all
sides the end token is forced at the given length, and forbidden before.
"""

from __future__ import annotations

import functools
import math
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import timing, trl_side
from benchmarks.flops import Lengths
from benchmarks.forcing import ForceLengths, forced_lengths
from benchmarks.groups import build_adapter, draw_prompt, shape_named
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.models.inputs.vision_records import move_vision
from gpg_vl.processes.command_line import ScriptParser
from gpg_vl.records import Prompt
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.hf import HfEngine

LENGTHS: dict[str, Callable[[random.Random, int], int]] = {
    "even": lambda rng, longest: rng.randint(4, longest),
    "long_tail": lambda rng, longest: round(math.exp(rng.uniform(math.log(4), math.log(longest)))),
}


SIDES = ("kit", "plain", "trl")


@dataclass(frozen=True)
class Work:
    """What is decoded together: completion r of all has ``counts[r]`` tokens."""

    name: str
    shape: str
    prompts: Sequence[Prompt]
    group_size: int
    counts: Sequence[int]
    words: Sequence[object]  # the options that stand for this work alone


def main() -> None:
    parser = ScriptParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="40M")
    parser.add_argument("--shapes", nargs="*", default=["256+28+64x8"])
    parser.add_argument("--many", default="256+28+256x8", help="shape of the prompts decoded together")
    parser.add_argument("--num-prompts", type=int, default=8, help="how many of them; 0 leaves those rows out")
    parser.add_argument("--lengths", nargs="+", choices=LENGTHS, default=list(LENGTHS), help="of their completions")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--peak-of", choices=SIDES, help="print the peak memory of one side of the first row, MiB")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dtype = "bfloat16" if torch.cuda.is_available() else "float32"
        adapter = build_adapter(shape_named(options.model), Path(folder), dtype)
        works = [one_prompt(adapter, Lengths.parse(text)) for text in options.shapes]
        if options.num_prompts:
            many = Lengths.parse(options.many)
            works += [many_prompts(adapter, many, options.num_prompts, kind) for kind in options.lengths]
        if options.peak_of:
            print(timing.measure_peak(build_sides(adapter, works[0])[options.peak_of]))
            return
        rows = [measure(adapter, work, options.rounds, options.model) for work in works]
    path = timing.write_results("rollout", rows, options.out)
    columns = ("name", "ratio_vs_plain", "ratio_vs_trl", "ratio_vs_whole_batch", "bound", "share_of_bound",
               "decode_step_ratio", "peak_memory_ratio", "kit", "plain", "trl")  # fmt: skip
    timing.print_table(f"Rollout, model {options.model}", rows, columns)
    print(path)


def one_prompt(adapter: Adapter, lengths: Lengths) -> Work:
    counts = [lengths.completion_tokens] * lengths.group_size
    words = ["--shapes", lengths.option, "--num-prompts", 0]
    name = f"rollout_{lengths.name}"
    return Work(name, lengths.name, [draw_prompt(adapter, lengths)], lengths.group_size, counts, words)


def many_prompts(adapter: Adapter, lengths: Lengths, num_prompts: int, kind: str) -> Work:
    prompts = [draw_prompt(adapter, lengths, seed) for seed in range(num_prompts)]
    rng = random.Random(0)
    draw, longest = LENGTHS[kind], lengths.completion_tokens
    counts = [draw(rng, longest) for _ in range(num_prompts * lengths.group_size)]
    words = ["--shapes", "--many", lengths.option, "--num-prompts", num_prompts, "--lengths", kind]
    name = f"rollout_{num_prompts}x{lengths.name}_{kind}_4..{longest}"
    return Work(name, f"{num_prompts} x {lengths.name}", prompts, lengths.group_size, counts, words)


def measure(adapter: QwenVLAdapter, work: Work, rounds: int, model: str) -> dict[str, Any]:
    further = measure_many if len(work.prompts) > 1 else measure_one
    return {
        "name": work.name,
        "shape": work.shape,
        **further(adapter, work, rounds),
        **timing.compare_peaks("benchmarks.rollout", ["--model", model, *work.words], SIDES),
    }


def measure_one(adapter: QwenVLAdapter, work: Work, rounds: int) -> dict[str, Any]:
    """With the bound, and what a decode step takes."""
    first_token = build_sides(adapter, replace(work, counts=[1] * work.group_size))
    phases = {
        "prefill_g": lambda: prefill(adapter, list(work.prompts) * work.group_size),
        "prefill_1": lambda: prefill(adapter, work.prompts),
        "kit_first_token": first_token["kit"],
        "plain_first_token": first_token["plain"],
    }
    seconds = timing.time_in_turn(build_sides(adapter, work) | phases, rounds)
    described = {name: timing.describe(values) for name, values in seconds.items()}
    saved = described["prefill_g"]["median"] - described["prefill_1"]["median"]
    bound = described["trl"]["median"] / (described["trl"]["median"] - saved)
    vs_trl = timing.ratio(seconds, "trl")
    step = {
        side: (described[side]["median"] - described[f"{side}_first_token"]["median"]) / (max(work.counts) - 1)
        for side in ("kit", "plain")
    }
    return {
        "ratio_vs_plain": timing.ratio(seconds, "plain"),
        "ratio_vs_trl": vs_trl,
        "bound": bound,
        "ideal_ratio": bound,
        "share_of_bound": vs_trl / bound,
        "decode_step_seconds": step,
        "decode_step_ratio": step["plain"] / step["kit"],
        **described,
    }


def measure_many(adapter: QwenVLAdapter, work: Work, rounds: int) -> dict[str, Any]:
    """Prompts decoded together; ``kit_whole`` is the kit with every row kept to the end, as the others do."""
    sides = build_sides(adapter, work)
    sides["kit_whole"] = build_sides(adapter, replace(work, counts=[max(work.counts)] * len(work.counts)))["kit"]
    seconds = timing.time_in_turn(sides, rounds)
    return {
        "mean_length": statistics.fmean(work.counts),
        "ratio_vs_plain": timing.ratio(seconds, "plain"),
        "ratio_vs_trl": timing.ratio(seconds, "trl"),
        "ratio_vs_whole_batch": timing.ratio(seconds, "kit_whole"),
        **{name: timing.describe(values) for name, values in seconds.items()},
    }


def build_sides(adapter: QwenVLAdapter, work: Work) -> dict[str, Callable[[], None]]:
    """One rollout of all prompts by side."""
    prompts, counts, longest = work.prompts, work.counts, max(work.counts)
    repeated = [prompt for prompt in prompts for _ in range(work.group_size)]
    inputs = padded_inputs(adapter, repeated)
    trainer = trl_side.build_trainer(adapter, len(repeated), work.group_size, longest)
    fields = trl_side.vision_fields(adapter, repeated)
    ids = [list(prompt.encoded.token_ids) for prompt in repeated]
    generate = adapter.model.generate
    forced = functools.partial(generate, logits_processor=[ForceLengths(counts, inputs["input_ids"].shape[1], adapter)])

    def kit() -> None:
        with forced_lengths(counts, adapter):
            engine = HfEngine(adapter, tokens_per_batch=10**9)
            seeds = [(prompt.sample.id,) for prompt in prompts]
            groups = engine.generate(prompts, work.group_size, Sampling(longest, 1.0), seeds)
        assert [len(c.token_ids) for g in groups for c in g.completions] == list(counts)

    def plain() -> None:
        adapter.model.eval()
        with torch.no_grad(), adapter.autocast():
            output = forced(**inputs, max_new_tokens=longest, do_sample=True, top_k=0)
        assert output.shape[1] == inputs["input_ids"].shape[1] + longest

    def trl() -> None:
        adapter.model.generate = forced
        try:
            with adapter.autocast():
                completion_ids, _ = trainer._generate_single_turn(ids, None, fields, work.group_size)
        finally:
            adapter.model.generate = generate
        assert [len(c) for c in completion_ids] == list(counts)

    return {"kit": kit, "plain": plain, "trl": trl}


def padded_inputs(adapter: Adapter, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
    """What ``generate`` takes for repeated rows of equal length."""
    device = adapter.device
    ids = torch.tensor([prompt.encoded.token_ids for prompt in prompts])
    return {
        "input_ids": ids.to(device),
        "attention_mask": torch.ones_like(ids).to(device),
        "mm_token_type_ids": torch.tensor([prompt.encoded.token_types for prompt in prompts]).to(device),
        **move_vision(adapter.join_vision([p.encoded.vision for p in prompts]), device).tensors,  # type: ignore[misc]
    }


def prefill(adapter: Adapter, prompts: Sequence[Prompt]) -> None:
    """Vision and prompt of each row, with a cache, through transformers' own forward."""
    adapter.model.eval()
    with torch.no_grad(), adapter.autocast():
        adapter.model(**padded_inputs(adapter, prompts), use_cache=True, logits_to_keep=1)


if __name__ == "__main__":
    main()
