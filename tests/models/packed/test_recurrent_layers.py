"""Recurrent layers of packed rows against the same layers on plain rows, one completion each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import Lfm2Config, Qwen3_5TextConfig
from transformers.models.lfm2.modeling_lfm2 import Lfm2ShortConv
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet

from gpg_vl.models.packed.recurrent_layers import RegroupedRows, StatesInGraph, regroup, regroup_rows

WIDTH = 16
ROWS = ((7, (5, 1, 70)), (3, (2,)), (1, (1, 1, 4)))
"""Length of each row's prompt and of its completions."""


def delta_net() -> nn.Module:
    sizes = {f"linear_num_{kind}_heads": n for kind, n in (("key", 2), ("value", 4))}
    config = Qwen3_5TextConfig(hidden_size=WIDTH, linear_key_head_dim=8, linear_value_head_dim=8, **sizes)
    layer = Qwen3_5GatedDeltaNet(config, layer_idx=1)
    layer.A_log.data.uniform_(-3, 0)  # at the class's start a state is forgotten at once
    return layer


def short_conv() -> nn.Module:
    return Lfm2ShortConv(Lfm2Config(hidden_size=WIDTH, num_hidden_layers=2, layer_types=["conv", "conv"]), layer_idx=1)


LAYERS = {"delta net": delta_net, "short convolution": short_conv}


def segments() -> Tensor:
    rows = [
        [0] * prompt + [n for n, length in enumerate(lengths, 1) for _ in range(length)] for prompt, lengths in ROWS
    ]
    longest = max(map(len, rows))
    return torch.tensor([row + [-1] * (longest - len(row)) for row in rows])


def plainly(layer: nn.Module, hidden: Tensor, segment_ids: Tensor) -> Tensor:
    """[T, H]: each prompt alone, and each completion behind its prompt."""
    found = torch.zeros_like(hidden)
    for row, (prompt, lengths) in enumerate(ROWS):
        found[row, :prompt] = layer(hidden_states=hidden[row, None, :prompt])[0]
        for n in range(1, len(lengths) + 1):
            own = segment_ids[row] == n
            whole = torch.cat([hidden[row, :prompt], hidden[row, own]])
            found[row, own] = layer(hidden_states=whole[None])[0, prompt:]
    return found[segment_ids >= 0]


def error(kind: str, change: Callable[[RegroupedRows], RegroupedRows] = lambda rows: rows) -> float:
    """The largest difference of results and of gradients, relative."""
    torch.manual_seed(0)
    layer = LAYERS[kind]()
    regroup(layer)
    segment_ids = segments()
    hidden = torch.randn(*segment_ids.shape, WIDTH, requires_grad=True)
    weights = torch.randn(int((segment_ids >= 0).sum()), WIDTH)

    def run(forward: Callable[[], Tensor]) -> list[Tensor]:
        result = forward()
        return [result.detach(), *torch.autograd.grad((result * weights).sum(), [hidden, *layer.parameters()])]

    packed = run(
        lambda: layer(hidden_states=hidden, attention_mask=change(regroup_rows(segment_ids)))[segment_ids >= 0]
    )
    plain = run(lambda: plainly(layer, hidden, segment_ids))
    return max(float((one - other).norm() / other.norm()) for one, other in zip(packed, plain, strict=True))


@pytest.mark.parametrize("kind", LAYERS)
def test_packed_rows_give_results_and_gradients_of_plain_rows(kind: str) -> None:
    assert error(kind) < 1e-5


@pytest.mark.parametrize("kind", LAYERS)
def test_a_state_that_is_not_the_prompts_shows(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutations: every completion starts from the first prompt's state, or from none."""
    expand = StatesInGraph.expand
    monkeypatch.setattr(StatesInGraph, "expand", lambda states, rows: expand(states, torch.zeros_like(rows)))
    assert error(kind) > 1e-2

    def forget(states: Any, rows: Tensor) -> None:
        states.__init__(len(states.layers) - 1)

    monkeypatch.setattr(StatesInGraph, "expand", forget)
    assert error(kind) > 1e-2


@pytest.mark.parametrize("kind", LAYERS)
def test_padding_that_is_read_as_tokens_shows(kind: str) -> None:
    """Mutation: no mask keeps the padding on the left of shorter prompts out of their states."""

    def without_mask(rows: RegroupedRows) -> RegroupedRows:
        return replace(rows, real=None)

    assert error(kind, without_mask) > 1e-2


def test_the_layer_runs_twice_whatever_the_rows_hold() -> None:
    """Where ranks share weights, each call of a module is one of all ranks."""
    layer = delta_net()
    regroup(layer)
    calls: list[tuple[int, ...]] = []
    layer.in_proj_qkv.register_forward_hook(lambda module, inputs, result: calls.append(tuple(inputs[0].shape)))
    for segment_ids in (segments(), torch.zeros(1, 6, dtype=torch.long)):
        packed = layer(hidden_states=torch.randn(*segment_ids.shape, WIDTH), attention_mask=regroup_rows(segment_ids))
        assert packed.shape == (*segment_ids.shape, WIDTH)
    assert calls == [(3, 7, WIDTH), (7, 70, WIDTH), (1, 6, WIDTH), (1, 2, WIDTH)]
