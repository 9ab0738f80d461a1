"""Useful operations, by formula, against those that torch counts in the real passes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gpg_vl.config import LoraConfig, ModelConfig
from gpg_vl.models import load_adapter
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.models.tiny import write_tiny_model
from gpg_vl.records import Reward, ScoredGroup, TrainingGroup
from gpg_vl.update.flops import count_weights, rollout_flops, update_flops
from gpg_vl.update.packing import build_micro_batch
from gpg_vl.update.policy import packed_log_probs
from tests.support.builders import SMALL_IMAGES, make_sample, make_training_group, whole

LoadModel = Callable[..., QwenVLAdapter]
PRODUCTS = {torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.convolution, torch.ops.aten.convolution_backward}


def counted(adapter: QwenVLAdapter, group: TrainingGroup, backward: bool) -> int:
    """Of products with weights in one packed pass; attention multiplies activations (bmm, sdpa)."""
    with FlopCounterMode(display=False) as mode:
        log_probs = packed_log_probs(adapter, build_micro_batch(whole(group), adapter), 1.0)
        if backward:
            log_probs.sum().backward()
    return sum(count for operation, count in mode.get_flop_counts()["Global"].items() if operation in PRODUCTS)


def scored(group: TrainingGroup) -> ScoredGroup:
    return ScoredGroup(group.prompt, group.completions, tuple(Reward(0.0, {}, "ok") for _ in group.completions))


@pytest.mark.parametrize("sizes", [[], [(84, 84)], [(84, 84), (140, 112)]], ids=["text", "image", "two images"])
def test_sampling_takes_a_forward_pass_on_each_token(load: LoadModel, sizes: list[tuple[int, int]]) -> None:
    """The last token of a completion is never read, and the head reads the prompt's last: the same number of tokens."""
    adapter = load()
    group = make_training_group(adapter, make_sample(sizes), [40, 30, 50])
    weights = count_weights(adapter)
    assert weights is not None
    assert rollout_flops(weights, [scored(group)]) == pytest.approx(counted(adapter, group, backward=False), rel=0.03)


@pytest.mark.parametrize(
    "model",
    [{}, {"freeze": ["vision"]}, {"freeze": ["vision", "projector"]}, {"freeze": ["text"]}, {"lora": LoraConfig(r=4)}],
    ids=["all", "no vision", "text", "no text", "lora"],
)
def test_an_update_takes_the_gradients_that_it_needs(load: LoadModel, model: dict[str, object]) -> None:
    """The head recomputes its products in the backward pass; once more is not useful."""
    adapter = load(**model)
    group = make_training_group(adapter, make_sample(), [40, 30, 50])
    if adapter.has_frozen_tower():
        vision = group.prompt.encoded.vision
        assert vision is not None
        with torch.no_grad():
            features = adapter.encode_images(vision)
        group = TrainingGroup(group.prompt, group.completions, group.coefficients, features)
    weights = count_weights(adapter)
    assert weights is not None
    again = 2 * weights.all["head"] * sum(len(each.token_ids) for each in group.completions)
    found = update_flops(weights, [group])
    assert found == pytest.approx(counted(adapter, group, backward=True) - again, rel=0.05)


def test_a_mixture_of_experts_is_not_counted(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "moe", family="qwen3_vl_moe")
    assert count_weights(load_adapter(ModelConfig(path=str(folder), **SMALL_IMAGES))) is None  # type: ignore[arg-type]
