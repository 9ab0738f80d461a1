"""How fast the kit's rollout decodes, and how far that is from what the memory's bandwidth allows.

Completions end where they are told to, not before. A decode step is the mean of all from the second token to the last;
in between, nothing waits for the device that would not wait in a run. The roofline reads each weight and each cached
key and value once a step, in bfloat16, at the bandwidth of a copy measured here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.flops import Lengths, decode_bytes
from benchmarks.forcing import ForceLengths, forced_lengths
from benchmarks.gpu_sections import kit
from benchmarks.gpu_sections.device import Peak, copy_bandwidth, read_peak, seconds_of, start_peak, synchronise
from benchmarks.gpu_sections.greedy import without_graphs
from benchmarks.gpu_sections.records import Row, Setting
from benchmarks.gpu_sections.trial import NotHere, free_memory, measured, require_seconds
from benchmarks.groups import draw_prompt
from benchmarks.models import QWEN2_5_VL_3B, QWEN2_VL_2B, ModelShape
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.records import Prompt
from gpg_vl.rollout import hf
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.hf import HfEngine
from gpg_vl.rollout.sampled_rows import steps_between_looks

PROFILED_STEPS = 2
"""Decoded after the timed ones, with all rows: their kernels are counted, and the profiler costs time."""
TRL_SECONDS = {"qwen2_vl": 12.0, "qwen2_5_vl": 25.0}
"""That a run of TRL takes on a GPU; the tower of the second family runs a call per window for every completion."""


@dataclass(frozen=True)
class Load:
    """``prompts`` x ``group_size`` rows decoded together; ``lengths`` of each prompt and the tokens forced."""

    prompts: int
    lengths: Lengths

    @property
    def rows(self) -> int:
        return self.prompts * self.lengths.group_size


@dataclass(frozen=True, kw_only=True)
class RolloutRow(Row):
    model: str = ""
    side: str = ""  # kit, kit with LoRA, with other looks, without graphs, TRL
    weights: str = ""  # the type that they are computed in
    look_every: int | None = None  # steps, for ends
    rows: int = 0
    tokens: int = 0  # forced per row
    total_s: float | None = None
    prefill_s: float | None = None
    step_ms: float | None = None
    tokens_per_s: float | None = None  # of all rows, prefill included
    kernels_per_step: float | None = None  # on a CPU: operators
    share_of_roofline: float | None = None
    allocated_mib: float | None = None
    reserved_mib: float | None = None


def run(setting: Setting) -> Iterator[RolloutRow]:
    """What matters most comes first: a section that runs out of time has it."""
    bandwidth = copy_bandwidth(setting.device)
    free_memory()
    full, some, few = loads(is_tiny=setting.is_tiny)
    for model in (QWEN2_5_VL_3B, QWEN2_VL_2B):
        shape = kit.sized(model, is_tiny=setting.is_tiny)
        adapter = kit.build(shape, setting.device)
        for load in (full, some, few):
            yield row(setting, adapter, shape, load, bandwidth, "kit")
        with looking_every(other_pause(adapter.device)):
            yield row(setting, adapter, shape, some, bandwidth, "kit with other looks")
        with without_graphs():
            yield row(setting, adapter, shape, some, bandwidth, "kit without graphs")
        del adapter
        free_memory()
        adapted = kit.build(shape, setting.device, lora=kit.default_lora())
        for load in (some, full, few):
            yield row(setting, adapted, shape, shorten(load, some), bandwidth, "kit with LoRA")
        del adapted
        free_memory()
    for model in (QWEN2_VL_2B, QWEN2_5_VL_3B):
        shape = kit.sized(model, is_tiny=setting.is_tiny)
        yield measured(RolloutRow, partial(run_trl, setting, shape, some), **identify(shape, some, "TRL"))
        free_memory()


def loads(*, is_tiny: bool) -> tuple[Load, Load, Load]:
    """16, 9 and 2 prompts of 600 tokens, 512 of them an image's; a step takes as long at 64 tokens as at 256."""
    if is_tiny:
        return Load(4, Lengths(16, 24, 10, 2)), Load(2, Lengths(16, 24, 8, 2)), Load(1, Lengths(16, 24, 8, 2))
    whole = Lengths(512, 88, 256, 8)
    return Load(16, whole), Load(9, replace(whole, completion_tokens=64)), Load(2, replace(whole, completion_tokens=64))


def other_pause(device: torch.device) -> int:
    """Steps between two looks for ends: every step where a run looks at some, or some where it looks at every one."""
    return 1 if steps_between_looks(device) > 1 else 8


@contextmanager
def looking_every(steps: int) -> Iterator[None]:
    before = hf.steps_between_looks
    hf.steps_between_looks = lambda device: steps
    try:
        yield
    finally:
        hf.steps_between_looks = before


def shorten(load: Load, other: Load) -> Load:
    """``load`` with at most the tokens of ``other``: a step takes the same time."""
    tokens = min(load.lengths.completion_tokens, other.lengths.completion_tokens)
    return replace(load, lengths=replace(load.lengths, completion_tokens=tokens))


def identify(shape: ModelShape, load: Load, side: str) -> dict[str, Any]:
    name = f"{load.prompts} x {load.lengths.option}"
    tokens = load.lengths.completion_tokens
    return {"name": name, "model": shape.name, "side": side, "rows": load.rows, "tokens": tokens}


def row(setting: Setting, adapter: Adapter, shape: ModelShape, load: Load, bandwidth: float, side: str) -> RolloutRow:
    work = partial(run_kit, setting, adapter, shape, load, bandwidth)
    return measured(RolloutRow, work, **identify(shape, load, side))


class StepClock:
    """When the second and the last token were chosen, and how many kernels the steps after them took."""

    def __init__(self, device: str, tokens: int):
        self._device = device
        self._tokens = tokens
        self._profile = profile(activities=[ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU])
        self.second = self.last = 0.0
        self.peak: Peak | None = None  # until the last token

    def __call__(self, step: int) -> None:
        """Once a token, the first one is 0. It waits for the device where a time is taken, and for the profiler."""
        last = self._tokens - 1
        if step in (1, last) or step > last:
            synchronise(self._device)
        if step == 1:
            self.second = time.perf_counter()
        if step == last:
            self.last, self.peak = time.perf_counter(), read_peak(self._device)
        if step == self._tokens:
            self._profile.start()
        if step == self._tokens + PROFILED_STEPS:
            self._profile.stop()

    def step_seconds(self) -> float:
        """Mean, without the first."""
        return (self.last - self.second) / (self._tokens - 2)

    def kernels_per_step(self) -> float | None:
        """None where the profiler sees none, as without the driver's permission."""
        wanted = torch.autograd.DeviceType.CUDA if self._device == "cuda" else torch.autograd.DeviceType.CPU
        events = [event for event in self._profile.events() if event.device_type == wanted]
        return len(events) / PROFILED_STEPS if events else None


def run_kit(setting: Setting, adapter: Adapter, shape: ModelShape, load: Load, bandwidth: float) -> dict[str, Any]:
    """Times one rollout after a short one that warms up; it goes on for the steps whose kernels are counted."""
    n = load.lengths
    require_seconds(setting, 0.05 * n.completion_tokens + load.prompts / 2 + 1 if setting.device == "cuda" else 0)
    prompts = [draw_prompt(adapter, n, seed) for seed in range(load.prompts)]
    clock = StepClock(setting.device, n.completion_tokens)
    generate(adapter, prompts[:1], n.group_size, 3, lambda step: None)
    free_memory()  # what is reserved is otherwise that of a larger batch before
    start_peak(setting.device)
    synchronise(setting.device)
    began = time.perf_counter()
    generate(adapter, prompts, n.group_size, n.completion_tokens + 1 + PROFILED_STEPS, clock)
    step, total, peak = clock.step_seconds(), clock.last - began, clock.peak
    assert peak is not None
    least = decode_bytes(shape, load.rows, n.prompt_tokens + n.completion_tokens / 2) / bandwidth
    return {
        "weights": kit.weights_of(adapter),
        "look_every": hf.steps_between_looks(adapter.device),
        "total_s": total,
        "prefill_s": total - step * (n.completion_tokens - 1),
        "step_ms": 1000 * step,
        "tokens_per_s": load.rows * n.completion_tokens / total,
        "kernels_per_step": clock.kernels_per_step(),
        "share_of_roofline": least / step,
        "allocated_mib": peak.allocated,
        "reserved_mib": peak.reserved,
    }


def generate(
    adapter: Adapter, prompts: Sequence[Prompt], group_size: int, tokens: int, on_step: Callable[[int], None]
) -> None:
    """All prompts in one batch, each completion of ``tokens`` tokens."""
    counts = [tokens] * (len(prompts) * group_size)
    with forced_lengths(counts, adapter, on_step):
        groups = HfEngine(adapter, tokens_per_batch=10**9).generate(
            prompts, group_size, Sampling(tokens, 1.0), [(prompt.sample.id,) for prompt in prompts]
        )
    assert [len(c.token_ids) for group in groups for c in group.completions] == counts


def run_trl(setting: Setting, shape: ModelShape, load: Load) -> dict[str, Any]:
    """TRL's own rollout by ``generate``: it runs image and prompt once for every completion."""
    n = load.lengths
    require_seconds(setting, TRL_SECONDS[shape.family] if setting.device == "cuda" else 0)
    adapter = kit.build(shape, setting.device)
    clock = StepClock(setting.device, n.completion_tokens)
    work = build_trl_work(adapter, load, clock)
    free_memory()
    start_peak(setting.device)
    total = seconds_of(work, setting.device)
    peak = read_peak(setting.device)
    step = clock.step_seconds()
    return {
        "weights": kit.weights_of(adapter),
        "total_s": total,
        "prefill_s": total - step * (n.completion_tokens - 1),
        "step_ms": 1000 * step,
        "tokens_per_s": load.rows * n.completion_tokens / total,
        "allocated_mib": peak.allocated,
        "reserved_mib": peak.reserved,
    }


def build_trl_work(adapter: QwenVLAdapter, load: Load, clock: StepClock) -> Callable[[], None]:
    """
    Raises:
        NotHere: TRL cannot be imported
    """
    try:
        from benchmarks import trl_side
    except ImportError as error:
        raise NotHere(f"TRL cannot be imported: {error}") from error
    n = load.lengths
    prompts = [draw_prompt(adapter, n, seed) for seed in range(load.prompts) for _ in range(n.group_size)]
    trainer = trl_side.build_trainer(adapter, load.rows, n.group_size, n.completion_tokens)
    fields = trl_side.vision_fields(adapter, prompts)
    ids = [list(prompt.encoded.token_ids) for prompt in prompts]
    forced = TimedLengths([n.completion_tokens] * load.rows, n.prompt_tokens, adapter, clock)
    generate = adapter.model.generate
    adapter.model.generate = lambda **words: generate(**words, logits_processor=[forced])

    def work() -> None:
        with adapter.autocast():
            found, _ = trainer._generate_single_turn(ids, None, fields, n.group_size)
        assert [len(completion) for completion in found] == [n.completion_tokens] * load.rows

    return work


class TimedLengths(ForceLengths):
    """Forced lengths for ``generate``, with a clock that hears of every step."""

    def __init__(self, counts: Sequence[int], prompt_length: int, adapter: Adapter, clock: StepClock):
        super().__init__(counts, prompt_length, adapter)
        self._clock, self._first = clock, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._clock(input_ids.shape[1] - self._first)
        return super().__call__(input_ids, scores)
