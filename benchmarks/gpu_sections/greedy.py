"""Completions that should come out the same: greedy ones alone and in a batch, sampled ones with CUDA graphs or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.flops import Lengths
from benchmarks.groups import draw_prompt
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.decoding.static_step import StaticStep
from gpg_vl.records import Prompt
from gpg_vl.rollout import decoding
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.hf import HfEngine

Tokens = tuple[int, ...]


def compare_alone(adapter: Adapter, *, is_tiny: bool) -> dict[str, Any]:
    prompts = draw_prompts(adapter, is_tiny=is_tiny)
    sampling = Sampling(8 if is_tiny else 64, 0.0)
    together = complete(adapter, prompts, sampling)
    return compare(together, [complete(adapter, [prompt], sampling)[0] for prompt in prompts])


def compare_graphs(adapter: Adapter, *, is_tiny: bool) -> dict[str, Any]:
    """Of eight completions of each prompt, which end here and there, so that rows leave and steps are captured anew."""
    prompts, sampling = draw_prompts(adapter, is_tiny=is_tiny), Sampling(64, 1.0)
    config = adapter.model.generation_config
    before, config.eos_token_id = config.eos_token_id, list(range(0, len(adapter.head_weight), 30))
    try:
        with without_graphs():
            plain = complete(adapter, prompts, sampling, group_size=8)
        with recorded_captures() as lacks:
            found = complete(adapter, prompts, sampling, group_size=8)
    finally:
        config.eos_token_id = before
    values = compare(found, plain)
    if any(lacks) or (adapter.device.type == "cuda" and len(lacks) < 2):
        values |= {"verdict": "NOT CAPTURED", "note": "; ".join(filter(None, lacks)) or f"{len(lacks)} captures"}
    return values


@contextmanager
def recorded_captures() -> Iterator[list[str | None]]:
    """What each capture returned."""
    lacks: list[str | None] = []
    capture = StaticStep.capture

    def recorded(step: StaticStep) -> str | None:
        lacks.append(capture(step))
        return lacks[-1]

    StaticStep.capture = recorded  # type: ignore[method-assign,assignment]
    try:
        yield lacks
    finally:
        StaticStep.capture = capture  # type: ignore[method-assign]


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


def complete(adapter: Adapter, prompts: Sequence[Prompt], sampling: Sampling, group_size: int = 1) -> list[Tokens]:
    seeds = [(prompt.sample.id,) for prompt in prompts]
    groups = HfEngine(adapter, 10**9).generate(prompts, group_size, sampling, seeds)
    return [completion.token_ids for group in groups for completion in group.completions]


def compare(found: Sequence[Tokens], expected: Sequence[Tokens]) -> dict[str, Any]:
    """Share of the positions up to which completions agree."""
    pairs = list(zip(found, expected, strict=True))
    share = sum(agreeing(a, b) for a, b in pairs) / sum(max(map(len, pair)) for pair in pairs)
    return {"share_equal": share, "verdict": "same" if share == 1 else "DIFFERENT"}


def agreeing(a: Tokens, b: Tokens) -> int:
    """Tokens before the first that differs."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
