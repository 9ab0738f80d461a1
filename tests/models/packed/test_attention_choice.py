"""The attention of packed rows: which code it is, and rows that are padded to whole blocks."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from gpg_vl.config import ModelConfig
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.models.packed import attention_choice
from gpg_vl.models.packed.attention_choice import FLEX_ROW_LENGTH, PackedAttention
from gpg_vl.update.packing import build_micro_batch, plan_micro_batches, shortest_budget
from tests.support.builders import FAMILIES, whole
from tests.support.groups import (
    kept_gradients,
    least_budget,
    make_groups,
    packed_gradients,
    plain_gradients,
    worst_relative_error,
)

LoadModel = Callable[..., QwenVLAdapter]
BLOCK = 128


@pytest.mark.parametrize(
    ("attention", "device", "short", "long"),
    [
        ("auto", "cuda", 1, BLOCK),
        ("auto", "meta", 1, BLOCK),
        ("auto", "cpu", 1, 1),
        ("flex_attention", "cuda", BLOCK, BLOCK),
        ("sdpa", "cuda", 1, 1),
        ("grouped_sdpa", "cuda", 1, 1),
    ],
)
def test_rows_are_padded_where_there_are_blocks(attention: Any, device: str, short: int, long: int) -> None:
    code = PackedAttention(SimpleNamespace(_attn_implementation="sdpa"), ModelConfig(attention=attention))
    blocks = [code.row_block(length, torch.device(device)) for length in (FLEX_ROW_LENGTH - 1, FLEX_ROW_LENGTH)]
    assert blocks == [short, long]


@pytest.fixture
def pad(monkeypatch: pytest.MonkeyPatch) -> Callable[[QwenVLAdapter], None]:
    return lambda adapter: monkeypatch.setattr(adapter, "row_block", lambda num_tokens: BLOCK)


@pytest.mark.parametrize("code", ["grouped_sdpa", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_no_gradient(
    load: LoadModel, monkeypatch: pytest.MonkeyPatch, pad: Callable[[QwenVLAdapter], None], family: str, code: str
) -> None:
    """Of several groups in a row, and of split groups behind a kept prompt."""
    adapter = load(family)
    groups = make_groups(adapter)
    monkeypatch.setattr(adapter._attention, "_packed", lambda segment_ids: code)
    expected, unpadded = plain_gradients(adapter, groups), packed_gradients(adapter, groups)
    pad(adapter)
    batch = build_micro_batch(whole(*groups), adapter)
    num_real = sum(row.num_tokens for row in whole(*groups))
    assert batch.input_ids.shape == (1, -(-num_real // BLOCK) * BLOCK) and batch.input_ids.numel() > num_real
    assert (batch.segment_ids[0, num_real:] == -1).all() and (batch.segment_ids[0, :num_real] >= 0).all()
    padded = packed_gradients(adapter, groups)
    assert worst_relative_error(padded, unpadded) < 1e-5
    assert worst_relative_error(padded, expected) < 1e-5
    assert worst_relative_error(kept_gradients(adapter, groups, least_budget(groups)), expected) < 1e-5


def test_padding_that_is_seen_is_caught(
    load: LoadModel, monkeypatch: pytest.MonkeyPatch, pad: Callable[[QwenVLAdapter], None]
) -> None:
    adapter = load()
    groups = make_groups(adapter)
    monkeypatch.setattr(adapter._attention, "_packed", lambda segment_ids: "sdpa")
    visible = attention_choice.visible_keys

    def seeing_padding(segment_ids: Tensor) -> Tensor:
        return visible(segment_ids) | (segment_ids == -1)[:, None, :]

    expected = packed_gradients(adapter, groups)
    monkeypatch.setattr(attention_choice, "visible_keys", seeing_padding)
    assert worst_relative_error(packed_gradients(adapter, groups), expected) < 1e-5, "nothing is padded"
    pad(adapter)
    assert worst_relative_error(packed_gradients(adapter, groups), expected) > 1e-3


def test_the_budget_counts_padding(load: LoadModel) -> None:
    groups = make_groups(load())
    for budget in (2 * BLOCK, 3 * BLOCK - 1, 8192):
        plan = plan_micro_batches(groups, budget, 10_000, joins_groups=True, block=BLOCK)
        lengths = [sum(row.num_tokens for row in rows) for rows in plan]
        assert all(-(-length // BLOCK) * BLOCK <= budget for length in lengths)
    longest = max(groups, key=shortest_budget)
    close = shortest_budget(longest)
    assert close % BLOCK, "less than a whole block"
    rows = [row for batch in plan_micro_batches([longest], close, 10_000, block=BLOCK) for row in batch]
    assert max(row.num_tokens for row in rows) == close, "where one completion comes that close"
