"""Does ``gpg-vl plan`` say what a step takes here? Its bytes and seconds, beside those measured on this card.

A rollout, an update and an optimizer step of a random model, as ``gpg-vl plan --measure`` runs them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks.flops import Lengths
from benchmarks.gpu_sections import kit
from benchmarks.gpu_sections.device import MIB
from benchmarks.gpu_sections.records import OK, Row, Setting
from benchmarks.gpu_sections.trial import free_memory, measured
from benchmarks.groups import draw_prompt
from benchmarks.models import QWEN2_5_VL_3B, QWEN2_VL_2B, ModelShape
from gpg_vl.config import LoraConfig, ModelConfig, Recipe, RolloutConfig
from gpg_vl.planning.cards import Card, card_here
from gpg_vl.planning.measure import PHASES, measure_step
from gpg_vl.planning.memory import memory_of, run_phases, size_of
from gpg_vl.planning.plan import flops_of
from gpg_vl.planning.rows import PromptLengths
from gpg_vl.planning.seconds import seconds_of, work_of
from gpg_vl.planning.this_cpu import measure_cpu
from gpg_vl.planning.trial_groups import longest_groups
from gpg_vl.processes.start import start_ranks
from gpg_vl.records import Prompt

TOGETHER = "together"
MEMORY_WITHIN, SECONDS_WITHIN = 0.15, 1.5
"""What docs/scale.md says of a plan: the peak to 15 %, seconds to a factor."""
CASES = ((QWEN2_VL_2B, None), (QWEN2_5_VL_3B, LoraConfig()))
"""A model, and the adapter that is trained on it, if any."""


@dataclass(frozen=True, kw_only=True)
class PlanRow(Row):
    model: str = ""
    trained: str = ""  # full, LoRA
    phase: str = ""  # rollout, update, step; together: the worst moment, and the sum of seconds
    planned_mib: float | None = None
    measured_mib: float | None = None
    memory_ratio: float | None = None  # planned over measured
    planned_s: float | None = None
    measured_s: float | None = None
    seconds_ratio: float | None = None
    verdict: str = ""  # of all phases together: within, OUTSIDE


@dataclass(frozen=True)
class Found:
    """By phase."""

    bytes: Mapping[str, int]
    seconds: Mapping[str, float]


def run(setting: Setting) -> Iterator[PlanRow]:
    card = card_here(torch.device("cuda")) if setting.device == "cuda" else measure_cpu(torch.float32)
    for model, lora in CASES:
        shape = kit.sized(model, is_tiny=setting.is_tiny)
        yield from compare(setting, shape, lora, card)
        free_memory()


def compare(setting: Setting, shape: ModelShape, lora: LoraConfig | None, card: Card) -> Iterator[PlanRow]:
    """A row for all phases together, which measures them, and one for each; none more where that fails."""
    both: list[Found] = []

    def work() -> dict[str, Any]:
        both.extend((plan(setting, shape, lora, card), measure(setting, shape, lora)))
        values = beside(both[0], both[1], TOGETHER)
        return values | {"verdict": judge(values["memory_ratio"], values["seconds_ratio"])}

    trained = "full" if lora is None else "LoRA"
    row = partial(measured, PlanRow, model=shape.name, trained=trained)
    first = row(work, name=f"{shape.name}, {trained}", phase=TOGETHER)
    yield first
    for phase in PHASES if first.status == OK else ():
        yield row(partial(beside, both[0], both[1], phase), name=f"{shape.name}, {trained}, {phase}", phase=phase)


def make_recipe(setting: Setting, lora: LoraConfig | None) -> tuple[Recipe, Lengths]:
    n = Lengths(16, 24, 16, 4) if setting.is_tiny else Lengths(512, 88, 64, 8)
    dtype: Any = "bfloat16" if setting.device == "cuda" else "float32"  # in which alone a CPU keeps to its estimates
    model = ModelConfig(dtype=dtype, lora=lora, gradient_checkpointing=True)
    rollout = RolloutConfig(prompts_per_step=4, group_size=n.group_size, max_new_tokens=n.completion_tokens)
    return Recipe(model=model, rollout=rollout), n


def build(setting: Setting, shape: ModelShape, lora: LoraConfig | None, device: str) -> tuple[Recipe, Any, Prompt]:
    """The model on the device, or as shapes."""
    recipe, lengths = make_recipe(setting, lora)
    adapter = kit.build(shape, device, recipe.model.dtype, lora=lora, gradient_checkpointing=True)
    return recipe, adapter, draw_prompt(adapter, lengths)


def plan(setting: Setting, shape: ModelShape, lora: LoraConfig | None, card: Card) -> Found:
    recipe, adapter, prompt = build(setting, shape, lora, "meta")
    rows = PromptLengths((len(prompt.encoded.token_ids),), 0, 1.0, prompt)
    runs, size = run_phases(recipe, adapter, rows, 1, on_gpu=setting.device == "cuda"), size_of(adapter)
    flops = flops_of(adapter, longest_groups(prompt, recipe.rollout, adapter, 1)[0])
    seconds = seconds_of(recipe, size, runs, work_of(flops, recipe, 1, 1.0), card, "none", 1)
    memory = memory_of(recipe, size, runs, "none", 1)
    return Found({phase: memory.bytes_of(phase) for phase in PHASES}, {phase: seconds[phase] for phase in PHASES})


def measure(setting: Setting, shape: ModelShape, lora: LoraConfig | None) -> Found:
    recipe, adapter, prompt = build(setting, shape, lora, setting.device)
    found = measure_step(recipe, adapter, prompt, start_ranks())
    return Found(found.bytes, found.seconds)


def beside(planned: Found, found: Found, phase: str) -> dict[str, Any]:
    (planned_bytes, planned_s), (found_bytes, found_s) = (values_of(each, phase) for each in (planned, found))
    return {
        "planned_mib": planned_bytes / MIB, "measured_mib": found_bytes / MIB,
        "memory_ratio": planned_bytes / found_bytes,
        "planned_s": planned_s, "measured_s": found_s, "seconds_ratio": planned_s / found_s,
    }  # fmt: skip


def values_of(found: Found, phase: str) -> tuple[int, float]:
    if phase == TOGETHER:
        return max(found.bytes.values()), sum(found.seconds.values())
    return found.bytes[phase], found.seconds[phase]


def judge(memory_ratio: float, seconds_ratio: float) -> str:
    is_near = abs(memory_ratio - 1) <= MEMORY_WITHIN and 1 / SECONDS_WITHIN <= seconds_ratio <= SECONDS_WITHIN
    return "within" if is_near else "OUTSIDE"
