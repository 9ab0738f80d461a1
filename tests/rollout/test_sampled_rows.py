"""How often a rollout looks for ends: it changes no completion, and in between nothing waits for the device."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.rollout import hf
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.sampled_rows import steps_between_looks
from tests.support.builders import make_lively
from tests.support.sampled_rows import HostCopies, check_equal, make_prompts, sample

LoadModel = Callable[..., QwenVLAdapter]


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
