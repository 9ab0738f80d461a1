"""The self-check's bounds; what it catches in float32 is in test_packing.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from builders import make_lively, make_sample, make_training_group
from gpg_vl import packing
from gpg_vl.models.qwen_vl import QwenVLAdapter
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


def test_mode_and_precision_are_restored(load: LoadModel) -> None:
    adapter = load(dtype="bfloat16")
    assert torch.get_float32_matmul_precision() == "high"
    adapter.model.train()
    check_packing(adapter, make_training_group(adapter, make_sample(), [3, 2]), 1.0)
    assert adapter.model.training
    assert torch.get_float32_matmul_precision() == "high"
    load()
    assert torch.get_float32_matmul_precision() == "highest"
