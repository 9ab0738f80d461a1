"""What the machine is, and what it reaches at best."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psutil
import torch

from benchmarks.gpu_sections.device import MIB, copy_bandwidth, matrix_rate
from benchmarks.gpu_sections.records import Row, Setting
from benchmarks.gpu_sections.trial import measured

PACKAGES = ("torch", "transformers", "accelerate", "peft", "deepspeed", "trl", "triton", "numpy", "datasets",
            "qwen-vl-utils", "jsonargparse")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MachineRow(Row):
    value: float | None = None
    unit: str = ""
    text: str = ""


def run(setting: Setting) -> Iterator[MachineRow]:
    yield measured(MachineRow, lambda: {"text": describe_card(setting.device)}, name="card")
    yield measured(MachineRow, lambda: {"text": find_driver()}, name="driver")
    memory = device_memory(setting.device) / MIB
    yield MachineRow(name="memory of the device", value=memory, unit="MiB")
    yield MachineRow(
        name="host", text=f"{platform.machine()}, {os.cpu_count()} cores, python {platform.python_version()}"
    )
    yield MachineRow(name="versions", text=", ".join(f"{name} {find_version(name)}" for name in PACKAGES))
    yield measured(
        MachineRow, lambda: {"value": copy_bandwidth(setting.device) / 1e12}, name="copy, read and written", unit="TB/s"
    )
    for name, dtype, precision in (
        ("bfloat16 products", torch.bfloat16, "highest"),
        ("float32 products with TF32", torch.float32, "high"),
        ("float32 products without TF32", torch.float32, "highest"),
    ):
        yield measured(MachineRow, partial(rate, setting.device, dtype, precision), name=name, unit="TFLOP/s")


def rate(device: str, dtype: torch.dtype, precision: str) -> dict[str, Any]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        return {"value": matrix_rate(device, dtype) / 1e12}
    finally:
        torch.set_float32_matmul_precision(before)


def describe_card(device: str) -> str:
    if device == "cpu":
        return "no GPU"
    major, minor = torch.cuda.get_device_capability()
    return f"{torch.cuda.get_device_name()}, compute capability {major}.{minor}, CUDA {torch.version.cuda}"


def find_driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return "nvidia-smi does not answer"


def device_memory(device: str) -> int:
    """Bytes."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[1]
    return int(psutil.virtual_memory().total)


def find_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "is not there"
