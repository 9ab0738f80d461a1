"""Completions of a rollout's rows, compared one by one, and how often their sampling waits for the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from torch.overrides import TorchFunctionMode

from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.records import Completion, Prompt
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.hf import HfEngine
from tests.support.builders import make_prompt, make_sample

SIZES = ([(84, 84)], [], [(140, 56), (56, 84)])


def make_prompts(adapter: QwenVLAdapter) -> list[Prompt]:
    return [make_prompt(adapter, make_sample(sizes, seed)) for seed, sizes in enumerate(SIZES)]


def sample(adapter: QwenVLAdapter, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
    """Four of each prompt, with their log-probs."""
    seeds = [(n,) for n in range(len(prompts))]
    groups = HfEngine(adapter, 10**6).generate(prompts, 4, sampling, seeds, keep_log_probs=True)
    return [completion for group in groups for completion in group.completions]


def check_equal(found: Sequence[Completion], expected: Sequence[Completion]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one.token_ids, one.text, one.finished) == (other.token_ids, other.text, other.finished)
        assert one.log_probs == pytest.approx(other.log_probs, rel=1e-5, abs=1e-5)


class HostCopies(TorchFunctionMode):
    """Counts what waits for the device."""

    NAMES = ("tolist", "item", "cpu", "numpy", "nonzero", "isin", "__bool__", "__int__", "__float__", "__index__")

    def __init__(self) -> None:
        super().__init__()
        self.num = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.num += func.__name__ in self.NAMES
        return func(*args, **(kwargs or {}))
