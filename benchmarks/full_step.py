"""Whole optimizer steps: rollout, reward, update, AdamW; kit against TRL on the same images, lengths and model.

    python -m benchmarks.full_step [--model 40M] [--shape 256+28+64x8] [--prompts 1] [--rounds 5]

Preprocessing of the image is in it on both sides. The phase table says where the seconds go.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image

from benchmarks import timing, trl_side
from benchmarks.flops import Lengths, ideal_update_ratio
from benchmarks.forcing import ForceLengths, forced_lengths
from benchmarks.groups import build_adapter, draw_prompt, shape_named
from gpg_vl.config import ObjectiveConfig, PromptConfig, UpdateConfig
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.objectives import build_objective
from gpg_vl.processes.command_line import ScriptParser
from gpg_vl.prompts.builder import PromptBuilder
from gpg_vl.records import Reward, Sample, ScoredGroup
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.hf import HfEngine
from gpg_vl.update.gradient import accumulate_gradient, take_step
from gpg_vl.update.layouts import build_layout
from gpg_vl.update.optimizer import build_optimizer
from gpg_vl.update.policy import PolicyForward

Phases = dict[str, list[float]]


def main() -> None:
    parser = ScriptParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="40M")
    parser.add_argument("--shape", default="256+28+64x8")
    parser.add_argument("--prompts", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--peak-of", choices=SIDES, help="print the peak memory of one side, MiB")
    options = parser.parse_args()
    lengths = Lengths.parse(options.shape)
    with tempfile.TemporaryDirectory() as folder:
        dtype = "bfloat16" if torch.cuda.is_available() else "float32"
        adapter = build_adapter(shape_named(options.model), Path(folder), dtype)
        samples = [draw_prompt(adapter, lengths, seed).sample for seed in range(options.prompts)]
        if options.peak_of:
            print(timing.measure_peak(SIDES[options.peak_of](adapter, samples, lengths, {})))
            return
        row = measure(adapter, samples, lengths, options.rounds)
    words = ["--model", options.model, "--shape", lengths.option, "--prompts", options.prompts]
    row |= timing.compare_peaks("benchmarks.full_step", words, list(SIDES))
    row["ideal_ratio"] = ideal_update_ratio(shape_named(options.model), lengths)
    path = timing.write_results("full_step", [row], options.out)
    timing.print_table(
        f"Optimizer step, model {options.model}", [row], ("name", "ratio_vs_trl", "peak_memory_ratio", "kit", "trl")
    )
    phases = [{"phase": name, **seconds} for name, seconds in row["phases"].items()]
    timing.print_table("Median seconds by phase", phases, ("phase", "kit", "trl"))
    print(path)


def measure(adapter: QwenVLAdapter, samples: Sequence[Sample], lengths: Lengths, rounds: int) -> dict[str, Any]:
    phases: dict[str, Phases] = {side: {} for side in SIDES}
    sides = {side: build(adapter, samples, lengths, phases[side]) for side, build in SIDES.items()}
    seconds = timing.time_in_turn(sides, rounds)
    medians = {
        name: {side: timing.describe(taken[name][1:])["median"] for side, taken in phases.items()}
        for name in ("rollout", "forward and backward", "optimizer")
    }
    return {
        "name": f"full_step_{len(samples)}x{lengths.name}",
        "shape": f"{len(samples)} x {lengths.name}",
        "ratio_vs_trl": timing.ratio(seconds, "trl"),
        "phases": medians,
        **{side: timing.describe(values) for side, values in seconds.items()},
    }


def build_kit_step(adapter: Adapter, samples: Sequence[Sample], lengths: Lengths, phases: Phases) -> Callable[[], None]:
    accelerator = Accelerator()
    config = UpdateConfig(learning_rate=1e-6)
    optimizer = build_optimizer(adapter, config)
    layout = build_layout(accelerator, PolicyForward(adapter, 1.0), optimizer, config.max_grad_norm)
    objective = build_objective(ObjectiveConfig(reduction="sequence"))
    prompts = PromptBuilder(adapter, {}, PromptConfig(template="{question}"))
    engine = HfEngine(adapter, tokens_per_batch=10**9)
    counts = [lengths.completion_tokens] * (lengths.group_size * len(samples))

    def run() -> None:
        with _timed(phases, "rollout"), forced_lengths(counts, adapter):
            built = [prompts.build(sample) for sample in samples]
            seeds = [(sample.id,) for sample in samples]
            groups = engine.generate(built, lengths.group_size, Sampling(lengths.completion_tokens, 1.0), seeds)
        scored = [ScoredGroup(g.prompt, g.completions, _rewards(len(g.completions))) for g in groups]
        with _timed(phases, "forward and backward"):
            training = [objective.training_group(group) for group in scored]
            accumulate_gradient(layout, training, len(counts), config, adapter, accelerator)
        with _timed(phases, "optimizer"):
            take_step(layout, config.learning_rate)

    return run


def _rewards(count: int) -> tuple[Reward, ...]:
    return tuple(Reward(float(i % 2), {}, "ok") for i in range(count))


def build_trl_step(
    adapter: QwenVLAdapter, samples: Sequence[Sample], lengths: Lengths, phases: Phases
) -> Callable[[], None]:
    """``GRPOTrainer``'s own rollout, rewards and loss on its own rows; then clipping and AdamW, as its loop does."""
    rows = [
        {"prompt": [{"role": "user", "content": sample.question}], "image": Image.open(io.BytesIO(sample.images[0]))}  # type: ignore[arg-type]
        for sample in samples
        for _ in range(lengths.group_size)
    ]
    trainer = trl_side.build_trainer(adapter, len(rows), lengths.group_size, lengths.completion_tokens, rows)
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1
    prompt_length = lengths.prompt_tokens
    counts = [lengths.completion_tokens] * len(rows)
    forced = [ForceLengths(counts, prompt_length, adapter)]
    generate = adapter.model.generate

    def run() -> None:
        trainer.model.train()
        with _timed(phases, "rollout"):
            adapter.model.generate = lambda **words: generate(**words, logits_processor=forced)
            try:
                with adapter.autocast():
                    inputs = trainer._generate_and_score_completions(rows)
            finally:
                adapter.model.generate = generate
        assert inputs["prompt_ids"].shape == (len(rows), prompt_length), "TRL must see the same image tokens"
        with _timed(phases, "forward and backward"):
            with adapter.autocast():
                loss = trainer._compute_loss(trainer.model, inputs)
            loss.backward()
        with _timed(phases, "optimizer"):
            torch.nn.utils.clip_grad_norm_(adapter.model.parameters(), 1.0)
            trainer.optimizer.step()
            adapter.model.zero_grad()

    return run


SIDES = {"kit": build_kit_step, "trl": build_trl_step}


class _timed:  # noqa: N801  reads as the verb it is
    """Appends the seconds of a block to ``phases[name]``."""

    def __init__(self, phases: Phases, name: str):
        self._seconds = phases.setdefault(name, [])

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._seconds.append(time.perf_counter() - self._start)


if __name__ == "__main__":
    main()
