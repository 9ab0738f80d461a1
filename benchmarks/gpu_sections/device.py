"""The machine under the models: its clock, its memory, its bandwidth and its matrix rate."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from gpg_vl.run.speed import rate_of

MIB = 2**20


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], object], device: str) -> float:
    synchronise(device)
    started = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - started


def median_seconds(work: Callable[[], object], device: str, repeats: int) -> float:
    """After one call that is not counted."""
    work()
    return statistics.median(seconds_of(work, device) for _ in range(repeats))


@dataclass(frozen=True)
class Peak:
    """MiB since the measurement began, weights and all; on a CPU both are the resident memory of the process."""

    allocated: float
    reserved: float


def start_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is held now


def read_peak(device: str) -> Peak:
    if device == "cuda":
        return Peak(torch.cuda.max_memory_allocated() / MIB, torch.cuda.max_memory_reserved() / MIB)
    resident = _resident("VmHWM")
    return Peak(resident, resident)


def read_held(device: str) -> Peak:
    """What is held now."""
    if device == "cuda":
        return Peak(torch.cuda.memory_allocated() / MIB, torch.cuda.memory_reserved() / MIB)
    resident = _resident("VmRSS")
    return Peak(resident, resident)


def _resident(key: str) -> float:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:")]
    return int(line.split()[1]) / 1024


def copy_bandwidth(device: str) -> float:
    """Bytes a second that a copy within the device's memory reads and writes."""
    source = torch.ones(2**31 if device == "cuda" else 2**26, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / median_seconds(lambda: target.copy_(source), device, 7)


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of a square product of random values."""
    size = 8192 if device == "cuda" else 512
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    for _ in range(3):
        torch.mm(a, b, out=out)
    return 2 * size**3 / median_seconds(lambda: torch.mm(a, b, out=out), device, 7)


def peak_rate(device: str) -> float:
    """FLOP/s that an MFU is a share of: the data sheet's, or what this machine reaches where that is not known."""
    name = torch.cuda.get_device_name() if device == "cuda" else ""
    rate = rate_of(name)
    return rate if rate is not None else matrix_rate(device, torch.bfloat16 if device == "cuda" else torch.float32)
