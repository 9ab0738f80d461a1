"""A recipe and a machine -> a plan: what the run will take before anything of it is paid for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from gpg_vl.config import Recipe
from gpg_vl.models.adapter import Adapter
from gpg_vl.planning.cards import Card
from gpg_vl.planning.engines import engine_bytes
from gpg_vl.planning.layouts import CARDS_PER_MACHINE, LAYOUTS, Size, rounds_weights
from gpg_vl.planning.memory import (
    Budgets,
    Memory,
    Runs,
    largest_budgets,
    memory_of,
    run_phases,
    size_of,
)
from gpg_vl.planning.rows import PromptLengths, measure_rows
from gpg_vl.planning.seconds import checkpoint_bytes, seconds_of, work_of
from gpg_vl.planning.trial_groups import longest_groups, samples_groups, with_trained_groups
from gpg_vl.planning.without_weights import load_shapes
from gpg_vl.preflight.sources import CheckedSources
from gpg_vl.processes.sharding import LayoutName, Sharding
from gpg_vl.prompts.length import build_prompts, training_room
from gpg_vl.records import Reward, ScoredGroup, TrainingGroup
from gpg_vl.run.kept_checkpoints import count_checkpoints
from gpg_vl.run.speed import GIB
from gpg_vl.update.flops import count_weights, rollout_flops, update_flops
from gpg_vl.update.layouts import refuse_layout

GB = 1e9


@dataclass(frozen=True, slots=True)
class Machine:
    card: Card
    num_gpus: int
    layout: LayoutName
    of_machine: int = CARDS_PER_MACHINE
    """Cards of each machine; fewer where there are fewer."""
    host: int | None = None
    """Bytes of memory that the first machine has for the run; None where it is not known."""
    others: int | None = None
    """The same of the fullest of all; None: as the first."""

    @property
    def is_even(self) -> bool:
        """Whether all machines have as many cards."""
        return self.num_gpus <= self.of_machine or self.num_gpus % self.of_machine == 0

    def holds(self, memory: Memory) -> bool:
        """Whether a rank fits on its card, and all of a machine into its memory."""
        return memory.peak <= self.card.usable and self.has_host_for(memory)

    def has_host_for(self, memory: Memory) -> bool:
        return self.host is None or (memory.host <= self.host and memory.kept <= self.fullest)

    @property
    def fullest(self) -> int:
        assert self.host is not None
        return self.host if self.others is None else self.others


@dataclass(frozen=True, slots=True)
class Fitting:
    """A layout that fits."""

    layout: LayoutName
    memory: Memory


@dataclass(frozen=True, slots=True)
class Plan:
    """What ``gpg-vl plan`` shows."""

    recipe: Recipe
    machine: Machine
    size: Size
    rows: PromptLengths
    runs: Runs
    memory: Memory
    budgets: Budgets
    seconds: dict[str, float]  # of a step, by phase
    flops: tuple[float, float] | None  # of a step over all ranks, in the rollout and in the update
    disk: int  # bytes
    fitting: Fitting | None  # the cheapest layout

    @property
    def total_seconds(self) -> float:
        return self.recipe.run.steps * sum(self.seconds.values())


def read_rows(
    recipe: Recipe, checked: Sequence[CheckedSources], adapter: Adapter, most: int | None = None
) -> PromptLengths:
    """
    Args:
        most: rows to look at, spread over all; None: all
    """
    room = training_room(recipe, adapter)
    prompts = build_prompts(recipe, checked[0].tasks, adapter, room)
    return measure_rows(checked[0].sources, prompts, room, most)


def memory_on(machine: Machine, recipe: Recipe, size: Size, runs: Runs) -> Memory:
    """Of a rank, beside the engine that its card may hold."""
    engine = engine_bytes(recipe.rollout, machine.card)
    return memory_of(recipe, size, runs, machine.layout, machine.num_gpus, of_machine=machine.of_machine, engine=engine)


def make_plan(recipe: Recipe, checked: Sequence[CheckedSources], machine: Machine) -> Plan:
    """
    Raises:
        ValueError: the model's folder or a row cannot be used
    """
    recipe = with_trained_groups(recipe)
    card, num, layout = machine.card, machine.num_gpus, machine.layout
    load = cache(partial(load_shapes, recipe.model))
    adapter = load(rounds_weights(layout, recipe.model))
    rows = read_rows(recipe, checked, adapter)
    run = cache(lambda is_rounded: run_phases(recipe, load(is_rounded), rows, num))
    size, runs = size_of(adapter), run(rounds_weights(layout, recipe.model))
    many, memory = machine.of_machine, memory_on(machine, recipe, size, runs)
    group = longest_groups(rows.worst, recipe.rollout, adapter, 1)[0]
    flops = flops_of(adapter, group, recipe.update.pack)
    if flops is not None and not samples_groups(recipe):
        flops = 0.0, flops[1]
    seconds = seconds_of(recipe, size, runs, work_of(flops, recipe, num, rows.num_images), card, layout, num, many)
    all_flops = None if flops is None else (
        flops[0] * recipe.rollout.prompts_per_step, flops[1] * recipe.rollout.prompts_per_step)  # fmt: skip
    return Plan(
        recipe, machine, size, rows, runs, memory,
        largest_budgets(recipe, adapter, rows, layout, num, card.usable, many), seconds, all_flops,
        count_checkpoints(recipe.run, 0, 0) * checkpoint_bytes(recipe, size),
        cheapest_layout(recipe, size, run, machine),
    )  # fmt: skip


def flops_of(adapter: Adapter, group: TrainingGroup, is_packed: bool = True) -> tuple[float, float] | None:
    """Of one group, in the rollout and in the update; None for a mixture of experts.

    Args:
        is_packed: else the update runs the prompt once more for each completion
    """
    weights = count_weights(adapter)
    if weights is None:
        return None
    rewards = (Reward(0.0, {}, "ok"),) * len(group.completions)
    sampled = ScoredGroup(group.prompt, group.completions, rewards)
    rows = [group] if is_packed else [_alone(group, number) for number in range(len(group.completions))]
    return rollout_flops(weights, [sampled]), update_flops(weights, rows)


def _alone(group: TrainingGroup, number: int) -> TrainingGroup:
    """One of its completions behind the prompt, whose images are encoded once in any case."""
    encoded = group.prompt.encoded if number == 0 else replace(group.prompt.encoded, vision=None)
    prompt = replace(group.prompt, encoded=encoded)
    return TrainingGroup(prompt, (group.completions[number],), (group.coefficients[number],))


def cheapest_layout(recipe: Recipe, size: Size, run: Callable[[bool], Runs], machine: Machine) -> Fitting | None:
    """The first that fits, of those in which the recipe runs.

    Args:
        run: the phases, of rounded weights or others
    """
    run = cache(run)
    for layout in LAYOUTS:
        if not _is_of_use(layout, machine) or not _runs_in(layout, recipe):
            continue
        memory = memory_on(replace(machine, layout=layout), recipe, size, run(rounds_weights(layout, recipe.model)))
        if machine.holds(memory):
            return Fitting(layout, memory)
    return None


def _is_of_use(layout: LayoutName, machine: Machine) -> bool:
    """There is nothing to share on one GPU, but weights or moments can be left to the host. HSDP is for machines of as
    many GPUs, which share within each: it is FSDP2 on one machine, and shares nothing on machines of one GPU.
    """
    if machine.num_gpus == 1:
        return layout in ("none", "fsdp_offload", "zero3_offload")
    return layout != "hsdp" or (machine.num_gpus > machine.of_machine > 1 and machine.is_even)


def _runs_in(layout: LayoutName, recipe: Recipe) -> bool:
    try:
        refuse_layout(recipe, Sharding(layout))
    except ValueError:
        return False
    return True


def describe_lack(recipe: Recipe, memory: Memory, machine: Machine, fitting: Fitting | None, budgets: Budgets) -> str:
    """One line: by how much it does not fit on the card, where, and which keys to change.

    Args:
        fitting: a layout that fits
        budgets: that fit in the machine's layout; None where a smaller one does not help
    """
    ways = list(_ways_out(recipe, memory.largest_phase, budgets))
    ways += _other_layout(fitting, machine)
    if recipe.model.lora is not None and not recipe.model.is_quantized and machine.layout == "none":
        ways.append("hold the base in 4 bits (model.lora.quantize: nf4)")
    ways.append("train an adapter (model.lora)" if recipe.model.lora is None else "take a smaller model")
    return (
        f"model.path: {Path(recipe.model.path).name} needs {memory.peak / GIB:.2f} GiB in the {memory.largest_phase}, "
        f"and {machine.card.name} has {machine.card.usable / GIB:.2f} GiB for it; {', or '.join(ways)}"
    )


def describe_host_lack(recipe: Recipe, memory: Memory, machine: Machine, fitting: Fitting | None) -> str:
    """The same where the memory of a machine does not suffice.

    Args:
        memory: more of which is needed than the machine has
    """
    assert machine.host is not None
    is_first = memory.host > machine.host
    needed, there = (memory.host, machine.host) if is_first else (memory.kept, machine.fullest)
    ways = [*_other_layout(fitting, machine), "take machines with more memory"]
    ways.append("train an adapter (model.lora)" if recipe.model.lora is None else "take a smaller model")
    return (
        f"model.path: {Path(recipe.model.path).name} needs {needed / GB:.2f} GB of each machine's memory in the "
        f"layout {machine.layout}, and {there / GB:.2f} GB are there; {', or '.join(ways)}"
    )


def _other_layout(fitting: Fitting | None, machine: Machine) -> Iterator[str]:
    if fitting is not None and fitting.layout != machine.layout:
        yield f"use the layout {fitting.layout} ({fitting.memory.host / GB:.2f} GB of each machine's memory)"


def _ways_out(recipe: Recipe, phase: str, budgets: Budgets) -> Iterator[str]:
    if phase == "update" and not recipe.model.gradient_checkpointing:
        yield "set model.gradient_checkpointing"
    if phase == "update" and budgets.update is not None:
        yield f"lower update.tokens_per_micro_batch to {budgets.update}"
    if phase == "rollout" and budgets.rollout is not None:
        yield f"lower rollout.tokens_per_batch to {budgets.rollout}"
    if phase == "rollout" and recipe.rollout.engine == "vllm" and recipe.rollout.vllm.mode == "colocate":
        yield "lower rollout.vllm.gpu_memory"
