"""Greedy completions that should come out the same: alone and in a batch, by CUDA graphs and without."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.flops import Lengths
from benchmarks.groups import draw_prompt
from gpg_vl.models.adapter import Adapter
from gpg_vl.records import Prompt
from gpg_vl.rollout import decoding
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.hf import HfEngine

Tokens = tuple[int, ...]


def compare_alone(adapter: Adapter, *, is_tiny: bool) -> dict[str, Any]:
    prompts = draw_prompts(adapter, is_tiny=is_tiny)
    together = complete(adapter, prompts, is_tiny=is_tiny)
    return compare(together, [complete(adapter, [prompt], is_tiny=is_tiny)[0] for prompt in prompts])


def compare_graphs(adapter: Adapter, *, is_tiny: bool) -> dict[str, Any]:
    prompts = draw_prompts(adapter, is_tiny=is_tiny)
    with without_graphs():
        plain = complete(adapter, prompts, is_tiny=is_tiny)
    return compare(complete(adapter, prompts, is_tiny=is_tiny), plain)


@contextmanager
def without_graphs() -> Iterator[None]:
    """Decode steps start their operations one by one, as on a CPU."""
    before = decoding.replays_steps
    decoding.replays_steps = lambda device: False
    try:
        yield
    finally:
        decoding.replays_steps = before


def draw_prompts(adapter: Adapter, *, is_tiny: bool) -> list[Prompt]:
    sizes = (16, 36, 9) if is_tiny else (256, 144, 100, 64)
    return [draw_prompt(adapter, Lengths(size, 24 + size % 7, 0, 0), size) for size in sizes]


def complete(adapter: Adapter, prompts: Sequence[Prompt], *, is_tiny: bool) -> list[Tokens]:
    sampling = Sampling(8 if is_tiny else 64, 0.0)
    groups = HfEngine(adapter, 10**9).generate(prompts, 1, sampling, [(prompt.sample.id,) for prompt in prompts])
    return [group.completions[0].token_ids for group in groups]


def compare(found: Sequence[Tokens], expected: Sequence[Tokens]) -> dict[str, Any]:
    """Share of the positions up to which completions agree."""
    pairs = list(zip(found, expected, strict=True))
    share = sum(agreeing(a, b) for a, b in pairs) / sum(max(map(len, pair)) for pair in pairs)
    return {"share_equal": share, "verdict": "same" if share == 1 else "DIFFERENT"}


def agreeing(a: Tokens, b: Tokens) -> int:
    """Tokens before the first that differs."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
