"""The rows of a rollout that are decoded together, and how they leave.

Where a model's step can be a CUDA graph, rows that have ended stay until half of them have: each number of rows needs a
graph of its own. Elsewhere they leave at once.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import Cache

from gpg_vl.models.adapter import Adapter
from gpg_vl.models.decoding.decode_step import own_text, run_step
from gpg_vl.models.decoding.static_step import StaticStep
from gpg_vl.screen import say_once

_FEWEST_ROWS = 8
"""Of a graph: fewer take no less time."""
_FEWEST_STEPS = 16
"""For which a graph is captured, which takes as long as a few steps."""


class Decoding(Protocol):
    def step(self, tokens: Tensor) -> Tensor:
        """Hidden states [R, H] after the last norm, of the tokens [R]."""

    def is_smaller(self, num_left: int) -> bool:
        """Whether this many rows are to be decoded without the others."""

    def keep(self, rows: Tensor) -> None:
        """Leaves out all rows but these."""


class GrowingDecoding:
    """On a cache that grows with the tokens."""

    def __init__(self, adapter: Adapter, cache: Cache, visible: Tensor | None, positions: Tensor, max_new_tokens: int):
        """
        Args:
            cache: after the prefill; extended in place
            visible: [R, P] bool, which keys of the cache are real; None if all are
            positions: [A, R] of the next token
        """
        self._adapter = adapter
        self._cache = cache
        self._length = 0 if visible is None else visible.shape[1]
        self._visible = None if visible is None else F.pad(visible, (0, max_new_tokens), value=True)
        self._positions = positions

    def step(self, tokens: Tensor) -> Tensor:
        self._length += 1
        seen = None if self._visible is None else self._visible[:, : self._length]
        hidden = run_step(self._adapter, tokens, self._positions, seen, self._cache)
        self._positions = self._positions + 1
        return hidden

    def is_smaller(self, num_left: int) -> bool:
        return num_left < self._positions.shape[1]

    def keep(self, rows: Tensor) -> None:
        self._cache.batch_select_indices(rows)
        self._positions = self._positions[:, rows]
        self._visible = None if self._visible is None else self._visible[rows]


class StaticDecoding:
    """On a cache with room for all tokens; each step is one CUDA graph."""

    def __init__(self, step: StaticStep, *, captures: bool = True):
        """
        Args:
            captures: False runs the operations of the graph one by one
        """
        self._step = step
        self._captures = captures
        self._capture()

    def _capture(self) -> None:
        lack = self._step.capture() if self._captures else None
        if lack is not None:
            say_once(f"rollout: a decode step runs without a CUDA graph, which could not be captured: {lack}")
            self._captures = False

    def step(self, tokens: Tensor) -> Tensor:
        return self._step(tokens)

    def is_smaller(self, num_left: int) -> bool:
        return self._step.num_rows >= _FEWEST_ROWS and num_left <= self._step.num_rows // 2

    def keep(self, rows: Tensor) -> None:
        self._step.keep(rows)
        self._capture()


def replays_steps(device: torch.device) -> bool:
    """Whether graphs are used, of weights in the type that they are computed in: autocast keeps casts of its own."""
    return device.type == "cuda" and not torch.is_autocast_enabled(device.type)


def start_decoding(
    adapter: Adapter, cache: Cache, visible: Tensor | None, positions: Tensor, max_new_tokens: int
) -> Decoding:
    """Arguments as of ``GrowingDecoding``."""
    text = own_text(adapter)
    if text is None or max_new_tokens < _FEWEST_STEPS or not replays_steps(positions.device):
        return GrowingDecoding(adapter, cache, visible, positions, max_new_tokens)
    return StaticDecoding(StaticStep(text, cache, visible, positions[0], max_new_tokens))
