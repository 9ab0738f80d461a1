from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache

from gpg_vl.models.decoding import kv_cache
from gpg_vl.models.decoding.kv_cache import GrowingCache

NUM_LAYERS = 2


def states(rows: int, tokens: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, rows, 3, tokens, 4, generator=generator)
    return keys, values


def decode(cache: Cache, steps: int = 150) -> list[Tensor]:
    """All that attention is given: a prompt of two rows, expanded to four each; rows leave at two steps."""
    seen = [each for n in range(NUM_LAYERS) for each in cache.update(*states(2, 9, n), n)]
    cache.batch_repeat_interleave(4)
    rows = 8
    for step in range(steps):
        if step in (3, 100):
            staying = torch.arange(0, rows, 2)
            cache.batch_select_indices(staying)
            rows = len(staying)
        for n in range(NUM_LAYERS):
            seen += [each.clone() for each in cache.update(*states(rows, 1, 10 * step + n), n)]
        assert cache.get_seq_length() == 9 + step + 1
        assert cache.get_mask_sizes(1, 0) == (9 + step + 2, 0)
    return seen


def assert_equal(first: list[Tensor], second: list[Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_holds_what_the_cache_of_transformers_holds() -> None:
    assert_equal(decode(GrowingCache()), decode(DynamicCache()))


@pytest.mark.parametrize("tokens_per_room", [1, 7])
def test_the_size_of_a_room_does_not_matter(monkeypatch: pytest.MonkeyPatch, tokens_per_room: int) -> None:
    monkeypatch.setattr(kv_cache, "TOKENS_PER_ROOM", tokens_per_room)
    assert_equal(decode(GrowingCache()), decode(DynamicCache()))


def test_a_room_that_is_not_copied_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    def empty_room(used: Tensor, length: int) -> Tensor:
        return used.new_zeros(*used.shape[:-2], length + 64, used.shape[-1])

    monkeypatch.setattr(kv_cache, "_with_room", empty_room)
    with pytest.raises(AssertionError):
        assert_equal(decode(GrowingCache()), decode(DynamicCache()))


def test_a_step_leaves_earlier_tokens_where_they_are() -> None:
    cache = GrowingCache()
    cache.update(*states(2, 9, 0), 0)
    places = {cache.update(*states(2, 1, n), 0)[0].data_ptr() for n in range(kv_cache.TOKENS_PER_ROOM)}
    assert len(places) == 1


def test_states_of_recurrent_layers_are_repeated_and_selected_like_keys() -> None:
    cache = GrowingCache(["linear_attention", "full_attention", "conv"])
    tokens, state = torch.randn(2, 8, 9), torch.randn(2, 3, 4, 4)
    for n in (0, 2):
        cache.update_conv_state(tokens, n, conv_kernel_size=4)
    cache.update_recurrent_state(state, 0)
    cache.update(*states(2, 9, 0), 1)
    assert cache.get_seq_length() == 9
    cache.batch_repeat_interleave(3)
    cache.batch_select_indices(torch.tensor([0, 2, 4]))
    rows = torch.tensor([0, 0, 1])
    layers: list[Any] = cache.layers
    assert torch.equal(layers[0].conv_states[0], tokens[rows, :, -4:])
    assert torch.equal(layers[2].conv_states[0], tokens[rows, :, -4:])
    assert torch.equal(layers[0].recurrent_states[0], state[rows])
    assert torch.equal(layers[1].keys, states(2, 9, 0)[0][rows])
