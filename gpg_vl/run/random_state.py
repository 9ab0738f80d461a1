"""The random states of a process (python, numpy, torch and its accelerators), as JSON.

Prompts and sampled tokens do not depend on them: each is seeded by step and sample. The model (dropout) and a user's
own code may.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy
import torch


def read_random_state() -> dict[str, Any]:
    version, words, next_gauss = random.getstate()
    name, keys, position, has_gauss, gauss = numpy.random.get_state(legacy=True)
    return {
        "python": [version, list(words), next_gauss],
        "numpy": [name, numpy.asarray(keys).tolist(), position, has_gauss, gauss],
        "torch": _to_text(torch.get_rng_state()),
        "cuda": [_to_text(state) for state in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Restores the states; those of accelerators only if their number is the same."""
    version, words, next_gauss = state["python"]
    random.setstate((version, tuple(words), next_gauss))
    name, keys, *rest = state["numpy"]
    numpy.random.set_state((name, numpy.array(keys, dtype=numpy.uint32), *rest))
    torch.set_rng_state(_from_text(state["torch"]))
    if state["cuda"] and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([_from_text(text) for text in state["cuda"]])


def seed_everything(seed: int) -> None:
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _to_text(state: torch.Tensor) -> str:
    return state.numpy().tobytes().hex()


def _from_text(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)


@contextmanager
def without_trace() -> Iterator[None]:
    """What is drawn inside from the generators of python, numpy and torch's CPU does not change what comes after it."""
    of_python, of_numpy, of_torch = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(of_python)
        numpy.random.set_state(of_numpy)
        torch.set_rng_state(of_torch)
