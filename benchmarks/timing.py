"""Times several implementations of the same work in turn, and writes the files and tables of results."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

Work = Callable[[], Any]
LIBRARIES = ("torch", "transformers", "trl", "accelerate")
HEADINGS = {
    "ratio_vs_plain": "vs plain",
    "ratio_vs_trl": "vs TRL",
    "ratio_vs_whole_batch": "vs whole",
    "ideal_ratio": "ideal",
    "share_of_ideal_vs_plain": "share, plain",
    "share_of_ideal_vs_trl": "share, TRL",
    "share_of_bound": "share",
    "kept_vs_whole": "kept / whole",
    "again_vs_whole": "again / whole",
    "peak_kept_vs_again": "peak, kept / again",
    "padded_vs_joined": "padded / joined",
    "decode_step_ratio": "decode step",
    "peak_memory_ratio": "memory",
    "vs_gpg": "first / gpg",
    "later_vs_gpg": "later / gpg",
    "peak_vs_gpg": "peak / gpg",
    "peak_mib": "peak, MiB",
}
"""Column titles of result fields in the printed table; memory is TRL's divided by the kit's."""


def time_in_turn(sides: Mapping[str, Work], rounds: int, warmups: int = 1) -> dict[str, list[float]]:
    """Seconds of each side, ``rounds`` times, one after the other within each round (ABAB)."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(warmups + rounds):
        for name, work in sides.items():
            start = time.perf_counter()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            taken = time.perf_counter() - start
            print(f"  round {number + 1}/{warmups + rounds}  {name} {taken:.3f} s", file=sys.stderr, flush=True)
            if number >= warmups:
                seconds[name].append(taken)
    return seconds


def describe(seconds: Sequence[float]) -> dict[str, float]:
    """Median and interquartile range."""
    if len(seconds) < 2:
        return {"median": seconds[0], "iqr": 0.0}
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return {"median": statistics.median(seconds), "iqr": high - low}


def ratio(seconds: Mapping[str, Sequence[float]], other: str, kit: str = "kit") -> float:
    """Median over the rounds of other / kit, each within its round."""
    return statistics.median(o / k for o, k in zip(seconds[other], seconds[kit], strict=True))


def compare_peaks(module: str, words: Sequence[object], sides: Sequence[str]) -> dict[str, Any]:
    """Peak memory of each side, and TRL's over the kit's."""
    peaks = measure_peaks(module, words, sides)
    return {"peak_memory_ratio": peaks["trl"] / peaks["kit"], "peak_memory_mib": peaks}


def measure_peaks(module: str, words: Sequence[object], sides: Sequence[str]) -> dict[str, float]:
    """MiB of each side that ``python -m MODULE WORDS --peak-of SIDE`` prints last, in a fresh process."""
    peaks = {}
    for side in sides:
        command = [sys.executable, "-m", module, *map(str, words), "--peak-of", side]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        peaks[side] = float(output.strip().splitlines()[-1])
        print(f"  peak memory  {side} {peaks[side]:.0f} MiB", file=sys.stderr, flush=True)
    return peaks


def measure_peak(work: Work) -> float:
    """MiB that ``work`` takes at its peak above what was held before; call it only once per process."""
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # else the work would use memory that is free but still counted as held
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to what is held now
    held = _peak_resident()
    work()
    return _peak_resident() - held


def _peak_resident() -> float:
    """MiB."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def write_results(name: str, rows: Sequence[Mapping[str, Any]], folder: Path) -> Path:
    """``bench_NAME.json``: the rows, and versions and hardware once."""
    path = folder / f"bench_{name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"hardware": hardware(), "versions": versions(), "rows": list(rows)}, indent=1))
    return path


def hardware() -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    cpu = models[0].split(":")[1].strip() if models else platform.processor()
    return {"cpu": cpu, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpu": gpu}


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def print_table(title: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    table = Table(title=title)
    for column in columns:
        table.add_column(HEADINGS.get(column, column), no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    Console(width=160).print(table)


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{value['median']:.3f} s ± {value['iqr']:.3f}"
    if isinstance(value, float):
        return f"{value:.2f}"
    return "" if value is None else str(value)
