"""Three ways to compute one rule of who sees whom."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpg_vl.models.attention import grouped_attention, visible_blocks, visible_keys

SEGMENT_IDS = torch.tensor([
    [0, 0, 0, 1, 1, 2, 3, 3, 3],
    [0, 0, 2, 2, 2, 3, -1, -1, -1],  # completion 1 has no input token
    [0, 0, 0, 0, -1, -1, -1, -1, -1],  # completions of one token alone
])  # fmt: skip


def test_the_rule() -> None:
    seen = visible_keys(torch.tensor([[0, 0, 1, 1, 2]]))[0].int().tolist()
    assert seen == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]]


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
