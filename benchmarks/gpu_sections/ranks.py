"""The layouts of weights and gradients with a single process: is the gradient the same in each, and what does it take?

The optimizer of this section turns every weight into its gradient, so that what a layout hands to its optimizer is read
back as weights. Two layers of the 2B model's widths: the layouts do the same with each layer.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from benchmarks.flops import Lengths
from benchmarks.gpu_sections import kit
from benchmarks.gpu_sections.device import read_held, read_peak, start_peak
from benchmarks.gpu_sections.records import Row, Setting
from benchmarks.gpu_sections.trial import NotHere, free_memory, measured
from benchmarks.gpu_sections.verdicts import find_worst, is_within
from benchmarks.groups import draw_group
from benchmarks.models import QWEN2_VL_2B, ModelShape
from gpg_vl.processes.ranks import end_ranks
from gpg_vl.processes.sharding import LayoutName

LAYOUTS: tuple[LayoutName, ...] = (
    "none", "fsdp", "hsdp", "fsdp_offload", "zero1", "zero2", "zero3", "zero3_offload",
)  # fmt: skip
BOUND = 1e-5
"""Relative difference of any parameter's gradient from that of one plain process, in float32."""


@dataclass(frozen=True, kw_only=True)
class RanksRow(Row):
    layout: str = ""
    verdict: str = ""  # equal, DIFFERENT
    worst_difference: float | None = None  # relative, of a parameter's gradient, from the first layout's
    worst_parameter: str = ""
    allocated_mib: float | None = None  # at the peak, beyond what was held before
    reserved_mib: float | None = None


class KeepGradient(Optimizer):
    """A step that turns the weights into their gradient."""

    def __init__(self, parameters: Any):
        super().__init__(parameters, {"lr": 1.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.copy_(parameter.grad)


def run(setting: Setting) -> Iterator[RanksRow]:
    os.environ |= single_process()
    full = kit.sized(QWEN2_VL_2B, is_tiny=setting.is_tiny)
    shape = replace(full, layers=2, vision_depth=2)
    expected: dict[str, Tensor] = {}
    for layout in LAYOUTS:
        work = partial(measure, setting, shape, layout, expected)
        yield measured(RanksRow, work, name=layout, layout=layout)
    end_ranks()


def single_process() -> dict[str, str]:
    """What a launcher would set."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {
        "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }  # fmt: skip


def measure(setting: Setting, shape: ModelShape, layout: LayoutName, expected: dict[str, Tensor]) -> dict[str, Any]:
    """Fills ``expected`` where it is empty."""
    if layout.startswith("zero"):
        try:
            import deepspeed  # noqa: F401
        except ImportError as error:
            raise NotHere(f"DeepSpeed cannot be imported: {error}") from error
    free_memory()
    held = read_held(setting.device)  # DeepSpeed's engines of the layouts before may stay
    start_peak(setting.device)
    adapter = kit.build(shape, setting.device, "float32")
    lengths = Lengths(16, 24, 8, 4) if setting.is_tiny else Lengths(256, 88, 64, 8)
    groups = [draw_group(adapter, lengths, seed) for seed in range(2)]
    found = kit.layout_gradients(adapter, groups, layout, KeepGradient)
    peak = read_peak(setting.device)
    values: dict[str, Any] = {
        "allocated_mib": peak.allocated - held.allocated,
        "reserved_mib": peak.reserved - held.reserved,
    }
    if not expected:
        expected |= found
    return values | compare(found, expected)


def compare(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Any]:
    assert found.keys() == expected.keys()
    differences = {}
    for name, gradient in expected.items():
        norm = float(gradient.norm())
        difference = float((found[name] - gradient).norm())
        differences[name] = difference / norm if norm else difference
    worst = find_worst(differences)
    verdict = "equal" if is_within(differences.values(), BOUND) else "DIFFERENT"
    return {"verdict": verdict, "worst_difference": differences[worst], "worst_parameter": worst.removeprefix("model.")}
