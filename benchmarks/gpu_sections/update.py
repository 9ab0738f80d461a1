"""How fast and how large the update is: forward and backward of one micro-batch, as the recipes fill it.

Three groups of 600 + 8 x 256 tokens, gradient checkpointing on. Then one knob at a time: among them a group that is
split, which keeps its prompt only without checkpointing, and float32 weights under autocast. Beside it the plain rows
of transformers' own forward and TRL, each on one group and on the same weights: they run image and prompt once for
every completion. Seconds are those of one group. The MFU counts the FLOPs that a group needs when nothing is computed
twice, on every side: neither repeated prompts nor recomputed activations earn anything.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.flops import Lengths, useful_update_flops
from benchmarks.gpu_sections import kit, plain
from benchmarks.gpu_sections.device import peak_rate, read_peak, seconds_of, start_peak
from benchmarks.gpu_sections.records import Row, Setting
from benchmarks.gpu_sections.trial import NotHere, free_memory, measured, require_seconds
from benchmarks.groups import draw_group
from benchmarks.joined_groups import one_group_a_row
from benchmarks.models import QWEN2_5_VL_3B, ModelShape
from benchmarks.split_group import run as run_plan
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.models.kernels import use_kernels
from gpg_vl.models.packed.vision_attention import own_tower_attention
from gpg_vl.records import TrainingGroup
from gpg_vl.update.packing import plan_micro_batches
from gpg_vl.update.policy import PolicyForward

SMALL_CHUNK = 2**24
REPEATS = 3


@dataclass(frozen=True)
class Bench:
    """What every row of the section is measured on."""

    setting: Setting
    shape: ModelShape
    lengths: Lengths
    adapter: QwenVLAdapter
    groups: list[TrainingGroup]
    peak_rate: float


@dataclass(frozen=True, kw_only=True)
class UpdateRow(Row):
    model: str = ""
    side: str = ""  # kit, plain, TRL
    attention: str = ""  # of packed rows
    weights: str = ""  # the type that they are computed in
    groups: int = 0
    group_s: float | None = None  # seconds of forward and backward, a group
    first_s: float | None = None  # of the whole first pass, compilation included
    mfu: float | None = None
    allocated_mib: float | None = None
    reserved_mib: float | None = None
    repeats: int | None = None


def run(setting: Setting) -> Iterator[UpdateRow]:
    yield from run_rounded(build_bench(setting))
    free_memory()
    bench = build_bench(setting, is_rounded=False)
    yield row(bench, "autocast", "kit", partial(measure_kit, bench))


def run_rounded(bench: Bench) -> Iterator[UpdateRow]:
    kit_row = partial(measure_kit, bench)
    yield row(bench, "as the recipes have it", "kit", kit_row)
    knobs: dict[str, Callable[[], AbstractContextManager[None]]] = {
        "a row for each group": lambda: one_group_a_row(bench.adapter),
        "tower in a call a window": lambda: own_tower_attention(bench.adapter.model),
        "head chunk 2^24": lambda: kit.head_chunk(SMALL_CHUNK),
        "kernels compiled": lambda: other_kernels(bench, "compiled"),
        "kernels liger": lambda: other_kernels(bench, "liger"),
    }
    for name, knob in knobs.items():
        yield row(bench, name, "kit", partial(kit_row, knob))
    usual = kit.attention_that_ran(bench.adapter)
    for attention in ("sdpa", "flex_attention"):
        yield row(bench, f"attention {attention}", "kit", partial(measure_attention, bench, attention, usual))
    for name, keeps in (("split group, prompt kept", True), ("split group, prompt run again", False)):
        yield row(bench, name, "kit", partial(measure_split, bench, keeps_prompt=keeps))
    yield row(bench, "rows by transformers' forward", "plain", partial(measure_plain, bench))
    yield row(bench, "TRL's loss", "TRL", partial(measure_trl, bench))


@contextmanager
def other_kernels(bench: Bench, kernels: str) -> Iterator[None]:
    """
    Raises:
        NotHere: they do not run here
    """
    if bench.setting.device != "cuda":
        raise NotHere("kernels are for CUDA")
    model = bench.adapter.model
    try:
        use_kernels(model, kernels)
    except ImportError as error:
        raise NotHere(f"{kernels} cannot be imported: {error}") from error
    try:
        yield
    finally:
        for module in model.modules():
            vars(module).pop("forward", None)


def build_bench(setting: Setting, *, is_rounded: bool = True) -> Bench:
    shape = kit.sized(QWEN2_5_VL_3B, is_tiny=setting.is_tiny)
    rate = peak_rate(setting.device)
    free_memory()
    adapter = kit.build(shape, setting.device, is_rounded=is_rounded, gradient_checkpointing=True)
    adapter.model.train()
    lengths = Lengths(16, 24, 8, 4) if setting.is_tiny else Lengths(512, 88, 256, 8)
    groups = [draw_group(adapter, lengths, seed) for seed in range(3)]
    return Bench(setting, shape, lengths, adapter, groups, rate)


def row(bench: Bench, name: str, side: str, work: Callable[[], dict[str, Any]]) -> UpdateRow:
    try:
        return measured(UpdateRow, work, name=name, model=bench.shape.name, side=side)
    finally:
        kit.clear_gradients(bench.adapter)
        free_memory()


def measure_kit(
    bench: Bench, knob: Callable[[], AbstractContextManager[None]] = nullcontext, least_seconds: float = 4.0
) -> dict[str, Any]:
    with knob():
        batch = kit.pack(bench.adapter, bench.groups)
        values = time_passes(
            bench, lambda: kit.packed_pass(bench.adapter, batch, len(bench.groups)), len(bench.groups), least_seconds
        )
    return values | {"attention": kit.attention_that_ran(bench.adapter)}


def measure_attention(bench: Bench, attention: str, usual: str) -> dict[str, Any]:
    if attention == usual:
        raise NotHere("it is what the first row has")
    if attention == "flex_attention" and bench.setting.device == "cpu":
        raise NotHere("FlexAttention has no backward pass on a CPU")
    kit.set_attention(bench.adapter, attention)
    try:
        return measure_kit(bench)
    finally:
        kit.set_attention(bench.adapter, "auto")


def measure_split(bench: Bench, *, keeps_prompt: bool) -> dict[str, Any]:
    """One group in two parts, without checkpointing: with it the prompt is not kept."""
    n, adapter = bench.lengths, bench.adapter
    budget = n.prompt_tokens + n.completion_tokens * n.group_size // 2
    plan = plan_micro_batches(bench.groups[:1], budget, 10**9, keeps_prompts=keeps_prompt)
    assert len(plan) == 2
    with kit.without_checkpointing(adapter):
        values = time_passes(bench, lambda: run_plan(adapter, PolicyForward(adapter, 1.0), plan), 1, 4.0)
    return values | {"attention": kit.attention_that_ran(adapter)}


def measure_plain(bench: Bench) -> dict[str, Any]:
    [group, *_] = bench.groups

    def work() -> None:
        kit.clear_gradients(bench.adapter)
        plain.run_plain(bench.adapter, [group], 1, plain.own_head, bench.lengths.group_size)

    return time_passes(bench, work, 1, least_seconds=12.0)


def measure_trl(bench: Bench) -> dict[str, Any]:
    try:
        from benchmarks import trl_side
    except ImportError as error:
        raise NotHere(f"TRL cannot be imported: {error}") from error
    adapter, size = bench.adapter, bench.lengths.group_size
    plain.use_plain_attention(adapter.model)
    trainer = trl_side.build_trainer(adapter, size, size, bench.lengths.completion_tokens, gradient_checkpointing=True)
    trainer.current_gradient_accumulation_steps = 1
    inputs = trl_side.loss_inputs(adapter, bench.groups[:1])

    def work() -> None:
        kit.clear_gradients(adapter)
        with adapter.autocast():
            loss = trainer._compute_loss(trainer.model, inputs)
        loss.backward()

    return time_passes(bench, work, 1, least_seconds=12.0)


def time_passes(bench: Bench, work: Callable[[], object], groups: int, least_seconds: float) -> dict[str, Any]:
    """One pass that is not counted, then as many as the time allows, at most ``REPEATS``.

    Args:
        least_seconds: that the two passes at least take on a GPU
    """
    setting = bench.setting
    if setting.device == "cuda":
        require_seconds(setting, least_seconds)
    first = seconds_of(work, setting.device)
    start_peak(setting.device)
    taken = [seconds_of(work, setting.device)]
    while len(taken) < REPEATS and setting.seconds_left() > 10 * taken[0]:
        taken.append(seconds_of(work, setting.device))
    peak = read_peak(setting.device)
    seconds = statistics.median(taken) / groups
    return {
        "groups": groups,
        "weights": kit.weights_of(bench.adapter),
        "group_s": seconds,
        "first_s": first,
        "mfu": useful_update_flops(bench.shape, bench.lengths) / seconds / bench.peak_rate,
        "allocated_mib": peak.allocated,
        "reserved_mib": peak.reserved,
        "repeats": len(taken),
    }
