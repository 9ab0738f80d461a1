"""Rollouts by replayed steps: the same completions, and rows that leave by halves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.rollout import decoding, hf
from gpg_vl.rollout.decoding import GrowingDecoding, StaticDecoding, start_decoding
from gpg_vl.rollout.engine import Sampling
from tests.support.builders import make_lively
from tests.support.recorded_graph import use_recorded_graphs
from tests.support.sampled_rows import HostCopies, check_equal, make_prompts, sample

LoadModel = Callable[..., QwenVLAdapter]


@pytest.mark.parametrize("temperature", [1.0, 0.0])
@pytest.mark.parametrize("pause", [1, 4])
def test_replayed_steps_sample_the_same(
    load: LoadModel, monkeypatch: pytest.MonkeyPatch, pause: int, temperature: float
) -> None:
    """Twelve rows, of which some end early; six are left, then three, and fewer than eight stay as they are."""
    adapter = load()
    make_lively(adapter)
    prompts = make_prompts(adapter)
    adapter.model.generation_config.eos_token_id = [2, *range(40, 80)]
    expected = sample(adapter, prompts, Sampling(12, temperature))
    graphs = use_recorded_graphs(monkeypatch)
    monkeypatch.setattr(decoding, "replays_steps", lambda device: True)
    monkeypatch.setattr(decoding, "_FEWEST_STEPS", 1)
    monkeypatch.setattr(hf, "steps_between_looks", lambda device: pause)
    found = sample(adapter, prompts, Sampling(12, temperature))
    check_equal(found, expected)
    assert 1 <= len(graphs) <= 2
    assert temperature == 0 or len({len(each.token_ids) for each in found}) > 4


def test_nothing_waits_for_the_device_between_looks(load: LoadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = load()
    prompts = make_prompts(adapter)
    adapter.model.generation_config.eos_token_id = [adapter.head_weight.shape[0] - 1]
    use_recorded_graphs(monkeypatch)
    monkeypatch.setattr(decoding, "replays_steps", lambda device: True)
    monkeypatch.setattr(decoding, "_FEWEST_STEPS", 1)
    monkeypatch.setattr(hf, "steps_between_looks", lambda device: 4)

    def count(max_new_tokens: int) -> int:
        with HostCopies() as copies:
            sample(adapter, prompts, Sampling(max_new_tokens, 1.0))
        return copies.num

    assert count(12) == count(11) == count(8) + 3  # a third look


def test_a_step_that_cannot_be_captured_is_said_and_sampled(
    load: LoadModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As here, where no device is: the step's operations run one by one."""
    adapter = load()
    make_lively(adapter)
    prompts = make_prompts(adapter)
    adapter.model.generation_config.eos_token_id = [2, *range(40, 80)]
    expected = sample(adapter, prompts, Sampling(12, 1.0))
    monkeypatch.setattr(decoding, "replays_steps", lambda device: True)
    monkeypatch.setattr(decoding, "_FEWEST_STEPS", 1)
    found = sample(adapter, prompts, Sampling(12, 1.0))
    assert [each.token_ids for each in found] == [each.token_ids for each in expected]
    assert "without a CUDA graph" in capsys.readouterr().err


def test_which_rollouts_replay(load: LoadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA those of models that are run layer by layer, but not under autocast, which keeps casts of its own."""
    assert not decoding.replays_steps(torch.device("cpu"))
    assert decoding.replays_steps(torch.device("cuda"))
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: kind == "cuda")
    assert not decoding.replays_steps(torch.device("cuda"))
    adapter = load()
    cache, positions = adapter.new_cache(), torch.zeros(3, 4, dtype=torch.long)
    assert isinstance(start_decoding(adapter, cache, None, positions, 5), GrowingDecoding)


def test_rows_leave_by_halves() -> None:
    class Step:
        num_rows = 16

    sixteen = StaticDecoding(Step(), captures=False)  # type: ignore[arg-type]
    assert [sixteen.is_smaller(num) for num in (16, 9, 8, 1)] == [False, False, True, True]
    Step.num_rows = 7
    assert not sixteen.is_smaller(1)
