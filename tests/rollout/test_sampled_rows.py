"""How often a rollout looks for ends: it changes no completion, and in between nothing waits for the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.records import Completion, Prompt
from gpg_vl.rollout import hf
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.hf import HfEngine
from gpg_vl.rollout.sampled_rows import steps_between_looks
from tests.support.builders import make_lively, make_prompt, make_sample

LoadModel = Callable[..., QwenVLAdapter]
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


@pytest.mark.parametrize("temperature", [1.0, 0.0])
@pytest.mark.parametrize("pause", [3, 4, 50])
def test_how_often_ends_are_looked_for_changes_nothing(
    load: LoadModel, monkeypatch: pytest.MonkeyPatch, pause: int, temperature: float
) -> None:
    """Rows that end in the middle of a pause, at its ends, or not at all; what they read after it is cut off."""
    adapter = load()
    make_lively(adapter)
    prompts = make_prompts(adapter)
    adapter.model.generation_config.eos_token_id = [2, *range(40, 80)]
    expected = sample(adapter, prompts, Sampling(12, temperature))
    monkeypatch.setattr(hf, "steps_between_looks", lambda device: pause)
    found = sample(adapter, prompts, Sampling(12, temperature))
    check_equal(found, expected)
    assert temperature == 0 or len({len(each.token_ids) for each in found}) > 4


class HostCopies(TorchFunctionMode):
    """Counts what waits for the device."""

    NAMES = ("tolist", "item", "cpu", "numpy", "nonzero", "isin", "__bool__", "__int__", "__float__", "__index__")

    def __init__(self) -> None:
        super().__init__()
        self.num = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.num += func.__name__ in self.NAMES
        return func(*args, **(kwargs or {}))


def test_nothing_waits_for_the_device_between_looks(load: LoadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = load()
    prompts = make_prompts(adapter)
    adapter.model.generation_config.eos_token_id = [adapter.head_weight.shape[0] - 1]

    def count(pause: int, max_new_tokens: int) -> int:
        monkeypatch.setattr(hf, "steps_between_looks", lambda device: pause)
        with HostCopies() as copies:
            sample(adapter, prompts, Sampling(max_new_tokens, 1.0))
        return copies.num

    assert count(4, 12) == count(4, 11) == count(4, 8) + 3  # a third look: tokens, their scores and log-probs
    assert count(1, 9) == count(1, 8) + 3
    assert count(1, 8) > count(4, 8)


def test_a_cpu_is_looked_at_in_every_step() -> None:
    assert steps_between_looks(torch.device("cpu")) == 1
    assert steps_between_looks(torch.device("cuda")) > 1
