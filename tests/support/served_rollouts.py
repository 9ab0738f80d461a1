"""Rollouts through another engine: prompts with their pictures, the engine ``vllm`` of a policy, what is sampled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpg_vl.config import PromptConfig, RolloutConfig, VllmConfig
from gpg_vl.prompts.builder import PromptBuilder
from gpg_vl.records import Prompt
from gpg_vl.rollout import build_engine
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.vllm import VllmEngine
from tests.support.builders import make_sample

GREEDY, SAMPLED = Sampling(10, 0.0), Sampling(10, 1.5)
SIZES = ([(84, 84)], [], [(140, 56), (300, 200)])


def make_prompts(adapter: Any, sizes: Sequence[Any] = SIZES, question: str = "How many shapes?") -> list[Prompt]:
    builder = PromptBuilder(adapter, {}, PromptConfig(template="{question}"), keep_pictures=True)
    return [builder.build(make_sample(each, seed, question=question)) for seed, each in enumerate(sizes)]


def make_engine(adapter: Any, folder: Path, *urls: str, **keys: Any) -> VllmEngine:
    config = VllmConfig(servers=list(urls), weights=str(folder), retries=1, retry_s=0.05, timeout_s=300.0, **keys)
    engine = build_engine(RolloutConfig(engine="vllm", vllm=config), adapter)
    assert isinstance(engine, VllmEngine)
    return engine


def sample(engine: Any, prompts: list[Prompt], sampling: Sampling, size: int = 3, keep: bool = True) -> Any:
    seeds = [("test", n) for n in range(len(prompts))]
    with engine.sync_weights():
        return engine.generate(prompts, size, sampling, seeds, keep_log_probs=keep)


def tokens(groups: Any) -> list[list[tuple[int, ...]]]:
    return [[each.token_ids for each in group.completions] for group in groups]
