"""Errors and their ratios, where a value that is not a number is never taken for a small one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping


def is_within(ratios: Iterable[float], bound: float) -> bool:
    """Whether all are finite and at most ``bound``."""
    return all(math.isfinite(ratio) and ratio <= bound for ratio in ratios)


def ratio_to(floor: float, error: float) -> float:
    """0 for an error of 0; infinite where the floor is 0 or no finite number, since no error can be judged by it."""
    if math.isnan(error) or (error and not (floor and math.isfinite(floor))):
        return math.inf
    return error / floor if error else 0.0


def largest(values: Iterable[float]) -> float:
    """NaN where one is; 0 of none. ``max`` drops a NaN that is not the first."""
    kept = list(values)
    return math.nan if any(map(math.isnan, kept)) else max(kept, default=0.0)


def find_worst(values: Mapping[str, float]) -> str:
    """The name of the largest, a NaN before any number; "" of none."""
    return max(values, key=lambda name: math.inf if math.isnan(values[name]) else values[name], default="")
