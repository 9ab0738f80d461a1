"""One step of a recipe on this machine: seconds and memory by phase, of the same worst groups that a plan is made for.

The rollout samples as a run does. The update then takes completions as long as the recipe allows, so both are known to
be the largest. The first step makes the optimizer's state, the second is timed, and the third one's memory is followed,
which takes time on a CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from gpg_vl.config import Recipe
from gpg_vl.models.adapter import Adapter
from gpg_vl.planning.memory import keeps_initial_model
from gpg_vl.planning.trial_groups import longest_groups
from gpg_vl.records import Prompt, TrainingGroup
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.hf import HfEngine
from gpg_vl.update.gradient import accumulate_gradient, take_step
from gpg_vl.update.layouts import Layout, build_layout
from gpg_vl.update.optimizer import build_optimizer
from gpg_vl.update.policy import PolicyForward
from gpg_vl.update.reference import InitialModel

PHASES = ("rollout", "update", "step")


@dataclass(frozen=True, slots=True)
class Measured:
    seconds: Mapping[str, float]  # by phase
    bytes: Mapping[str, int]  # by phase, at its worst moment, weights and optimizer included
    sampled_tokens: int


def measure_step(recipe: Recipe, adapter: Adapter, prompt: Prompt, accelerator: Accelerator) -> Measured:
    """
    Args:
        adapter: with its weights, on the device
        prompt: the longest
    """
    step = _Step(recipe, adapter, prompt, accelerator)
    for phase in PHASES:
        step.phases[phase]()
    seconds, sizes = {}, {}
    for phase in PHASES:
        seconds[phase] = _seconds_of(step.phases[phase], adapter.device)
    for phase in PHASES:
        sizes[phase] = step.held() + _peak_of(step.phases[phase], adapter.device)
    return Measured(seconds, sizes, step.sampled_tokens)


def _seconds_of(work: Callable[[], Any], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


class _Step:
    def __init__(self, recipe: Recipe, adapter: Adapter, prompt: Prompt, accelerator: Accelerator):
        self._recipe, self._adapter, self._accelerator = recipe, adapter, accelerator
        self._prompts = [prompt] * recipe.rollout.prompts_per_step
        self._engine = HfEngine(adapter, recipe.rollout.tokens_per_batch)
        self._initial = InitialModel(recipe, adapter, accelerator) if keeps_initial_model(recipe) else None
        self._layout: Layout = build_layout(
            accelerator, PolicyForward(adapter, recipe.rollout.temperature), build_optimizer(adapter, recipe.update),
            recipe.update.max_grad_norm,
        )  # fmt: skip
        self._groups: Sequence[TrainingGroup] = []
        self.sampled_tokens = 0
        self.phases: dict[str, Callable[[], Any]] = {
            "rollout": self._roll_out, "update": self._accumulate, "step": self._take,
        }  # fmt: skip

    def held(self) -> int:
        """Bytes on the device that outlive a phase."""
        model = self._adapter.model
        states = chain.from_iterable(state.values() for state in self._layout.optimizer.state.values())
        trained = [parameter for _, parameter in self._adapter.trainable_parameters()]
        gradients = (parameter.grad for parameter in trained)
        initial = () if self._initial is None else self._initial.tensors()
        kept = [each for each in chain(model.parameters(), model.buffers(), trained, states, gradients, initial)
                if isinstance(each, Tensor)]  # fmt: skip
        return sum({each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in kept}.values())

    def _roll_out(self) -> None:
        config = self._recipe.rollout
        sampling = Sampling(config.max_new_tokens, config.temperature, config.top_p, config.top_k)
        seeds = [("measure", number) for number in range(len(self._prompts))]
        sampled = self._engine.generate(self._prompts, config.group_size, sampling, seeds)
        self.sampled_tokens = sum(len(c.token_ids) for group in sampled for c in group.completions)
        groups = longest_groups(self._prompts[0], config, self._adapter, len(sampled))
        pairs = zip(groups, sampled, strict=True)
        self._groups = [replace(group, features=rolled.features) for group, rolled in pairs]

    def _accumulate(self) -> None:
        tokens = sum(len(c.token_ids) for group in self._groups for c in group.completions)
        accumulate_gradient(
            self._layout, self._groups, float(tokens), self._recipe.update, self._adapter, self._accelerator
        )

    def _take(self) -> None:
        take_step(self._layout, self._recipe.update.learning_rate)


def _peak_of(work: Callable[[], Any], device: torch.device) -> int:
    """Bytes of the worst moment, beyond what was there before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    assert recorded.profiler is not None and recorded.profiler.kineto_results is not None
    found = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(found, key=lambda each: each.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak
