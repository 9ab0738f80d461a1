"""A machine without a GPU as a card: what it reaches in small pieces of a step. A plan can be held against that."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpg_vl.planning.cards import Card

_TOKENS, _WIDTH, _INNER = 256, 512, 2048
"""Of a gated layer, as a small text model has it."""
_COPIED = 2**26
"""Numbers."""
_STEPPED = 2**22
"""Weights."""
_OPERATIONS = 300
_REPEATS = 5


def measure_cpu(dtype: torch.dtype, clock: Callable[[], float] = time.perf_counter) -> Card:
    """Rates of this machine's processors; takes a few seconds.

    Args:
        dtype: that the model computes in
    """

    def fastest(work: Callable[[], object]) -> float:
        taken = []
        for _ in range(_REPEATS):
            start = clock()
            work()
            taken.append(clock() - start)
        return min(taken)

    source, target = torch.ones(_COPIED), torch.empty(_COPIED)
    bandwidth = 2 * 4 * _COPIED / fastest(lambda: target.copy_(source))
    rate = 6 * 3 * _TOKENS * _WIDTH * _INNER / fastest(_gated_layer(dtype))
    numbers = fastest(_optimizer_step()) * bandwidth / 4 / _STEPPED
    total = psutil.virtual_memory().total
    return Card(
        "this machine's processors", rate, total, bandwidth, achieved=1.0, in_float32=1.0,
        launch=fastest(_small_layers) / _OPERATIONS, step_traffic=numbers, is_host=True,
    )  # fmt: skip


def _gated_layer(dtype: torch.dtype) -> Callable[[], None]:
    """Forward and backward, of as many tokens as a small micro-batch has."""
    up, gate = (torch.randn(_INNER, _WIDTH, dtype=dtype, requires_grad=True) for _ in range(2))
    down, states = (
        torch.randn(*shape, dtype=dtype, requires_grad=True) for shape in ((_WIDTH, _INNER), (_TOKENS, _WIDTH))
    )

    def work() -> None:
        seen = F.rms_norm(states, (_WIDTH,))
        out = states + F.linear(F.silu(F.linear(seen, gate)) * F.linear(seen, up), down)
        torch.autograd.grad(out.sum(), (up, gate, down, states))

    return work


def _optimizer_step() -> Callable[[], object]:
    """AdamW's, with the norm of the gradient before it."""
    weight = nn.Parameter(torch.randn(_STEPPED))
    weight.grad = torch.randn(_STEPPED)
    optimizer = torch.optim.AdamW([weight])
    optimizer.step()

    def work() -> None:
        nn.utils.clip_grad_norm_([weight], 1.0)
        optimizer.step()

    return work


@torch.no_grad()
def _small_layers() -> Tensor:
    """Operations that hardly compute anything."""
    states, weight = torch.ones(8, 64), torch.eye(64)
    for _ in range(_OPERATIONS):
        states = F.linear(states, weight)
    return states
