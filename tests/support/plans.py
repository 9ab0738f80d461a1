"""Small recipes for which a plan is compared with a measured step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from gpg_vl.config import LoraConfig, ModelConfig, ObjectiveConfig, Recipe, RewardsConfig, RolloutConfig, UpdateConfig
from gpg_vl.models import load_adapter
from gpg_vl.planning.layouts import rounds_weights
from gpg_vl.planning.measure import Measured, measure_step
from gpg_vl.planning.memory import Memory, memory_of, run_phases, size_of
from gpg_vl.planning.rows import PromptLengths
from gpg_vl.planning.without_weights import load_shapes
from tests.support.builders import SMALL_IMAGES, make_prompt, make_sample

VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "full": ({}, {}),
    "lora": ({"lora": LoraConfig()}, {}),
    "frozen": ({"freeze": ["vision", "projector"]}, {}),
    "checkpointing": ({"gradient_checkpointing": True}, {}),
    "small budget": ({}, {"tokens_per_micro_batch": 150}),
    "ordinary rows": ({}, {"pack": False}),
    "bfloat16": ({"dtype": "bfloat16"}, {}),
    "bfloat16 lora": ({"dtype": "bfloat16", "lora": LoraConfig()}, {}),
    "quantized": ({"dtype": "bfloat16", "lora": LoraConfig(quantize="nf4")}, {}),
}
"""Keys of model and update."""

OTHERS: dict[str, dict[str, Any]] = {
    "reference": {"objective": ObjectiveConfig(name="grpo", kl_coefficient=0.1)},
    "discriminator": {"objective": ObjectiveConfig(name="gapo")},
    "preference": {"rewards": RewardsConfig(preference="head")},
    "preference of an adapter": {"rewards": RewardsConfig(preference="head"), "model": {"lora": LoraConfig()}},
    "vllm": {"rollout": {"engine": "vllm"}, "model": {"freeze": ["vision", "projector"]}},
}
"""Other sections, by recipe; keys of model and rollout."""


@dataclass(frozen=True)
class Compared:
    planned: Memory
    measured: Measured

    @property
    def ratio(self) -> float:
        return self.planned.peak / max(self.measured.bytes.values())


def variant_of(folder: Path, name: str) -> Recipe:
    sections = dict(OTHERS.get(name, {}))
    model, update = VARIANTS.get(name, (sections.pop("model", {}), {}))
    rollout = {"prompts_per_step": 3, "group_size": 4, "max_new_tokens": 16, **sections.pop("rollout", {})}
    return Recipe(
        model=ModelConfig(path=str(folder), **{**SMALL_IMAGES, **model}),
        rollout=RolloutConfig(**rollout),
        update=UpdateConfig(**update),
        **sections,
    )


def planned_for(recipe: Recipe, layout: Any = "none", num_ranks: int = 1) -> Memory:
    adapter = load_shapes(recipe.model, is_rounded=rounds_weights(layout, recipe.model))
    prompt = make_prompt(adapter, make_sample(((200, 200),)))
    rows = PromptLengths((len(prompt.encoded.token_ids),), 0, 1.0, prompt)
    runs = run_phases(recipe, adapter, rows, num_ranks, on_gpu=False)
    return memory_of(recipe, size_of(adapter), runs, layout, num_ranks)


def compare(recipe: Recipe) -> Compared:
    adapter = load_adapter(replace(recipe.model, device="cpu"))
    adapter.round_weights()
    prompt = make_prompt(adapter, make_sample(((200, 200),)))
    return Compared(planned_for(recipe), measure_step(recipe, adapter, prompt, Accelerator(cpu=True)))
