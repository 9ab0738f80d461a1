"""Three ways to compute one rule of who sees whom."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gpg_vl.models.packed.attention import visible_blocks, visible_keys
from gpg_vl.models.packed.grouped_attention import _moves_of, grouped_attention
from gpg_vl.models.packed.segments import GROUP

SEGMENT_IDS = torch.tensor([
    [0, 0, 0, 1, 1, 2, 3, 3, 3],
    [0, 0, 2, 2, 2, 3, -1, -1, -1],  # completion 1 has no input token
    [0, 0, 0, 0, -1, -1, -1, -1, -1],  # completions of one token alone
])  # fmt: skip


def test_the_rule() -> None:
    seen = visible_keys(torch.tensor([[0, 0, 1, 1, 2]]))[0].int().tolist()
    assert seen == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]]


def test_the_rule_for_two_groups() -> None:
    """Neither the second prompt nor its completions see anything of the first group."""
    ids = torch.tensor([[0, 0, 1, GROUP, GROUP + 1, GROUP + 2]])
    assert visible_keys(ids)[0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 1, 0, 1],
    ]


@pytest.mark.parametrize("ids", [[0, 0, 1, GROUP, GROUP, GROUP + 2], [0, 0, 0, 2, 2, 3]])
def test_blocks_of_groups_in_one_row_show_the_same_keys(ids: list[int]) -> None:
    """Of all tokens, and of those behind a cache."""
    index, segment_ids = torch.arange(6), torch.tensor([ids])
    for first in (0, 3):
        blocks = visible_blocks(segment_ids, first)
        shown = blocks.mask_mod(torch.tensor(0), torch.tensor(0), index[: 6 - first, None], index[None, :])
        assert torch.equal(shown, visible_keys(segment_ids)[0, first:])


def test_blocks_show_the_same_keys_as_the_dense_mask() -> None:
    blocks = visible_blocks(SEGMENT_IDS)
    index = torch.arange(9)
    shown = [blocks.mask_mod(torch.tensor(r), torch.tensor(0), index[:, None], index[None, :]) for r in range(3)]
    assert torch.equal(torch.stack(shown), visible_keys(SEGMENT_IDS))


def attend(segment_ids: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Output of grouped attention on real tokens, its gradients, and those of the dense mask."""
    torch.manual_seed(0)
    inputs = [torch.randn(3, heads, 9, 4, dtype=torch.float64, requires_grad=True) for heads in (4, 2, 2)]
    query, key, value = inputs
    grouped = grouped_attention(nn.Identity(), query, key, value, segment_ids[:, None, None], scaling=0.3)[0]
    repeated = [tensor.repeat_interleave(2, dim=1) for tensor in (key, value)]
    mask = visible_keys(SEGMENT_IDS)[:, None]
    dense = F.scaled_dot_product_attention(query, *repeated, attn_mask=mask, scale=0.3).transpose(1, 2)
    weights = torch.randn(3, 9, 4, 4, dtype=torch.float64) * (SEGMENT_IDS >= 0)[..., None, None]
    difference = (grouped - dense) * (SEGMENT_IDS >= 0)[..., None, None]
    return difference, *(list(torch.autograd.grad((out * weights).sum(), inputs)) for out in (grouped, dense))


def test_grouped_attention_equals_the_dense_mask() -> None:
    difference, grouped, dense = attend(SEGMENT_IDS)
    assert float(difference.abs().max()) < 1e-12
    assert all(torch.allclose(g, d, atol=1e-12) for g, d in zip(grouped, dense, strict=True))


@pytest.mark.parametrize("row", [[0, 0, 0, 1, 1, 1, 3, 3, 3], [0, 0, 0, 0, 1, 2, 3, 3, 3]])
def test_another_layout_gives_another_result(row: list[int]) -> None:
    """Mutations: two completions as one, a completion's token as one of the prompt."""
    mutated = SEGMENT_IDS.clone()
    mutated[0] = torch.tensor(row)
    difference, grouped, dense = attend(mutated)
    assert float(difference[0].abs().max()) > 1e-2
    assert not torch.allclose(grouped[1], dense[1], atol=1e-2)


def test_padding_gets_nothing() -> None:
    tensor = torch.randn(3, 2, 9, 4)
    output, _ = grouped_attention(nn.Identity(), tensor, tensor, tensor, SEGMENT_IDS[:, None, None])
    assert not torch.any(output[SEGMENT_IDS == -1])


@st.composite
def rows_of_segments(draw: st.DrawFn) -> Tensor:
    """Rows of groups whose prompts and completions have any lengths, none and only padding included."""
    group = st.tuples(st.integers(0, 40), st.lists(st.integers(0, 12), max_size=4))
    rows = draw(st.lists(st.lists(group, min_size=1, max_size=3), min_size=1, max_size=4))
    ids = [
        [
            g * GROUP + n
            for g, (prompt, each) in enumerate(row)
            for n, length in enumerate([prompt, *each])
            for _ in range(length)
        ]
        for row in rows
    ]
    longest = max(1, *map(len, ids))
    return torch.tensor([row + [-1] * (longest - len(row)) for row in ids])


@settings(max_examples=60, deadline=None)
@given(rows_of_segments())
def test_rows_of_any_lengths_equal_the_dense_mask(segment_ids: Tensor) -> None:
    num_rows, length = segment_ids.shape
    generator = torch.Generator().manual_seed(length)
    shapes = [(num_rows, heads, length, 4) for heads in (4, 2, 2)]
    inputs = [torch.randn(s, dtype=torch.float64, generator=generator).requires_grad_() for s in shapes]
    query, key, value = inputs
    is_real = (segment_ids >= 0)[..., None, None]
    grouped = grouped_attention(nn.Identity(), query, key, value, segment_ids[:, None, None], scaling=0.3)[0]
    repeated = [tensor.repeat_interleave(2, dim=1) for tensor in (key, value)]
    mask = (visible_keys(segment_ids) | torch.eye(length, dtype=torch.bool))[:, None]  # padding sees itself
    dense = F.scaled_dot_product_attention(query, *repeated, attn_mask=mask, scale=0.3).transpose(1, 2) * is_real
    weights = torch.randn(dense.shape, dtype=torch.float64, generator=generator)
    assert torch.allclose(grouped, dense, atol=1e-12)
    gradients = [torch.autograd.grad((output * weights).sum(), inputs) for output in (grouped, dense)]
    assert all(torch.allclose(one, other, atol=1e-12) for one, other in zip(*gradients, strict=True))


def test_where_tokens_go_is_worked_out_once_for_a_forward() -> None:
    tensor, mask = torch.randn(3, 2, 9, 4), SEGMENT_IDS[:, None, None]
    grouped_attention(nn.Identity(), tensor, tensor, tensor, mask)
    assert _moves_of(mask) is _moves_of(mask)
    assert _moves_of(mask.clone()) is not _moves_of(mask)
