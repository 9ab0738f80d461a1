"""The self-check's bounds; what it catches in float32 is in test_packing.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from builders import FAMILIES, make_lively, make_sample, make_training_group
from gpg_vl import packing
from gpg_vl.config import LoraConfig
from gpg_vl.models.qwen_vl import QwenVLAdapter
from gpg_vl.rollout import HfEngine, Sampling
from gpg_vl.self_check import BFLOAT16_TOLERANCE, check_packing

LoadModel = Callable[..., QwenVLAdapter]


def test_bfloat16_weights_have_a_bound_of_their_own(load: LoadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """As DeepSpeed keeps them; on a model whose output depends on what it reads."""
    adapter = load()
    make_lively(adapter)
    adapter.model.bfloat16()
    group = make_training_group(adapter, make_sample([(84, 84), (56, 56)]), [25, 14, 9, 13])
    assert 1e-4 < check_packing(adapter, group, 1.0) < BFLOAT16_TOLERANCE
    original = packing._lay_out
    monkeypatch.setattr(packing, "_lay_out", lambda row: (original(row)[0], [min(s, 1) for s in original(row)[1]]))
    with pytest.raises(RuntimeError, match="self-check failed"):
        check_packing(adapter, group, 1.0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("model", [{"freeze": ["vision", "projector"]}, {"lora": LoraConfig(r=4)}], ids=str)
def test_features_that_autocast_rounded_in_the_rollout_pass(
    load: LoadModel, family: str, model: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are float32: nothing else of the check is rounded, and a wrong order of the features still shows."""
    adapter = load(family, dtype="bfloat16", **model)
    group = make_training_group(adapter, make_sample([(84, 84), (56, 56)]), [5, 4])
    [rolled] = HfEngine(adapter, 10**6).generate([group.prompt], 2, Sampling(3, 1.0), [(0,)])
    assert rolled.image_features is not None
    reused = replace(group, image_features=rolled.image_features)
    assert check_packing(adapter, reused, 1.0) < 1e-5
    embed = QwenVLAdapter._embed
    monkeypatch.setattr(QwenVLAdapter, "_embed", lambda self, ids, features: embed(self, ids, features.flip(0)))
    with pytest.raises(RuntimeError, match="self-check failed"):
        check_packing(adapter, reused, 1.0)


def test_mode_and_precision_are_restored(load: LoadModel) -> None:
    adapter = load(dtype="bfloat16")
    assert torch.get_float32_matmul_precision() == "high"
    adapter.model.train()
    check_packing(adapter, make_training_group(adapter, make_sample(), [3, 2]), 1.0)
    assert adapter.model.training
    assert torch.get_float32_matmul_precision() == "high"
    load()
    assert torch.get_float32_matmul_precision() == "highest"
