"""FlexAttention as the kit compiles it. On a CPU: traced and guarded as always, without machine code, forward alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.utils import counters

from gpg_vl.models.packed import flex_attention
from gpg_vl.models.packed.attention import visible_blocks, visible_keys
from gpg_vl.models.packed.flex_attention import compiled_flex_attention
from tests.support.messages import naming


@pytest.fixture(autouse=True)
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    flex_attention._compiled.cache_clear()
    torch._dynamo.reset()
    yield
    flex_attention._compiled.cache_clear()
    torch._dynamo.reset()


def segments(prompt: int, *completions: int, padding: int = 0) -> Tensor:
    counts = [prompt, *completions]
    return torch.tensor([[n for n, count in enumerate(counts) for _ in range(count)] + [-1] * padding])


def difference(
    segment_ids: Tensor, heads: tuple[int, int] = (4, 2), num_earlier: int = 0, *, training: bool = True
) -> float:
    """The largest from the dense mask, on queries behind ``num_earlier`` tokens."""
    torch.manual_seed(0)
    length = segment_ids.shape[1]
    query, key, value = (torch.randn(1, count, length, 16) for count in (heads[0], heads[1], heads[1]))
    query = query[:, :, num_earlier:]
    module = nn.Identity().train(training)
    with torch.no_grad():
        found, _ = compiled_flex_attention(
            module, query, key, value, visible_blocks(segment_ids, num_earlier), scaling=0.3
        )
    repeated = [each.repeat_interleave(heads[0] // heads[1], dim=1) for each in (key, value)]
    mask = visible_keys(segment_ids)[:, None, num_earlier:]
    expected = F.scaled_dot_product_attention(query, *repeated, attn_mask=mask, scale=0.3).transpose(1, 2)
    return float((found - expected).abs().max())


def count_graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


@pytest.mark.parametrize("heads", [(4, 2), (6, 2), (2, 2)], ids=str)
def test_it_is_the_attention_of_the_dense_mask(heads: tuple[int, int]) -> None:
    assert difference(segments(40, 30, 1, 70), heads) < 1e-5
    assert difference(segments(40, 30, 1, 70, padding=115), heads) < 1e-5
    assert difference(segments(40, 30, 1, 70), heads, num_earlier=40) < 1e-5


def test_one_graph_serves_every_length_and_mode() -> None:
    """And another one serves completions behind kept prompts of every length, whose keys are more than its queries.

    Of several blocks: torch compiles one block, as every length of 1, for itself.
    """
    difference(segments(140, 130, 20))
    before = count_graphs()
    for prompt, training in ((141, True), (250, False), (7, True), (600, False)):
        assert difference(segments(prompt, 264, 20, padding=9), training=training) < 1e-5
    assert count_graphs() == before
    difference(segments(140, 264, 20), num_earlier=140)
    before = count_graphs()
    for prompt in (141, 250, 7, 600):
        assert difference(segments(prompt, 264, 20), num_earlier=prompt) < 1e-5
    assert count_graphs() == before


def test_rotated_keys_in_float32_are_rounded_as_the_values_are() -> None:
    """As autocast leaves them; torch's kernel takes one type."""
    query, key = torch.randn(1, 4, 20, 16), torch.randn(1, 2, 20, 16)
    blocks = visible_blocks(segments(10, 10))
    with torch.no_grad():
        found, _ = compiled_flex_attention(nn.Identity(), query, key, key.bfloat16(), blocks)
    assert found.dtype == torch.bfloat16


def test_past_the_limit_it_is_an_error() -> None:
    """Torch alone would run it uncompiled, with a warning. The limit is not below what a run takes."""
    difference(segments(40, 30, 20))
    assert torch._dynamo.config.recompile_limit >= 64
    with (
        torch._dynamo.config.patch(recompile_limit=1),
        pytest.raises(ValueError, match=naming("model.attention", 1, "uncompiled", "sdpa")),
    ):
        difference(segments(40, 30, 20), num_earlier=40)


def test_rows_that_are_not_packed_use_transformers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name stays with the model after a packed forward."""
    inputs = [torch.randn(1, 4, 20, 16) for _ in range(3)]
    module = nn.Identity()
    module.is_causal = True  # type: ignore[assignment]
    for mask in (None, torch.ones(1, 1, 20, 20, dtype=torch.bool).tril()):
        with monkeypatch.context() as within:
            within.setattr(flex_attention, "_compiled", lambda: pytest.fail("it was compiled"))
            found, _ = compiled_flex_attention(module, *inputs, mask, scaling=0.3)
        expected = F.scaled_dot_product_attention(*inputs, is_causal=True, scale=0.3).transpose(1, 2)
        assert torch.allclose(found, expected, atol=1e-6)
