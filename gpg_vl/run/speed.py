"""How fast a step was, and what memory it took: the numbers of a run that depend on the machine."""

from __future__ import annotations

import resource

import torch

from gpg_vl.records import LoggedStep

GIB = 2**30
PEAK_RATES = {"H100": 989e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H200": 989e12, "H200 NVL": 835e12,
              "H20": 148e12, "A100": 312e12, "L40S": 362e12, "A10": 125e12, "L4": 121e12}  # fmt: skip
"""FLOP/s of dense bfloat16 products, by the vendor's data sheets."""


def peak_memory(device: torch.device) -> int:
    """Bytes, the most that this process has held so far: on a GPU of its memory, otherwise resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_rate(device: torch.device) -> float | None:
    """FLOP/s that the MFU is a share of; None where the data sheet is not known, or on no GPU."""
    return rate_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def rate_of(name: str) -> float | None:
    model = model_of(name)
    return None if model is None else PEAK_RATES[model]


def model_of(name: str) -> str | None:
    """The longest name of a card that is in ``name``, with no letter or digit of another card behind it."""
    words = name.replace("-", " ").split()
    found = [card for card in PEAK_RATES if all(word in words for word in card.split())]
    return max(found, key=len) if found else None


def describe_speed(
    logged: LoggedStep | None,
    seconds: float,
    peak_bytes: int,
    useful_flops: float | None = None,
    total_rate: float | None = None,
) -> dict[str, float]:
    """
    Args:
        logged: None where the step samples nothing
        seconds: of the whole step
        peak_bytes: of the rank that has held most
        useful_flops: of all ranks; None: not known
        total_rate: FLOP/s of all ranks together
    """
    speed = {"peak_memory_gib": peak_bytes / GIB}
    if logged is not None:
        tokens = logged.totals.tokens
        speed |= {"tokens_per_second": tokens / seconds}
        if logged.rollout_seconds > 0:
            speed |= {"rollout_tokens_per_second": tokens / logged.rollout_seconds}
    if useful_flops is not None:
        speed["useful_flops"] = useful_flops
        if total_rate is not None:
            speed["mfu"] = useful_flops / seconds / total_rate
    return speed
