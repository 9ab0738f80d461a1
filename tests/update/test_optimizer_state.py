"""Moments by weight, without DeepSpeed; under ZeRO, on several ranks: ``faults/test_rank_checkpoints.py``."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from gpg_vl.update.optimizer_state import load_entries, read_shards


def stepped(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    [shard] = read_shards(optimizer, model.named_parameters())
    return shard


def test_moments_of_another_optimizer_are_taken_up() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    first = torch.optim.AdamW(model.parameters())
    assert list(read_shards(first, model.named_parameters())) == [{}], "before the first step there are none"
    shard = stepped(model, first)
    assert set(shard) == {
        f"{n}/{entry}" for n, _ in model.named_parameters() for entry in ("step", "exp_avg", "exp_avg_sq")
    }
    second = torch.optim.AdamW(model.parameters())
    stepped(model, second)

    def stored(name: str) -> dict[str, torch.Tensor]:
        return {key.split("/")[1]: value for key, value in shard.items() if key.split("/")[0] == name}

    load_entries(second, model.named_parameters(), stored)
    [again] = read_shards(second, model.named_parameters())
    assert shard.keys() == again.keys()
    assert all(torch.equal(shard[key], again[key]) for key in shard)


def test_portions_end_at_a_weight_behind_the_limit() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    optimizer = torch.optim.AdamW(model.parameters())
    whole = stepped(model, optimizer)
    first_weight = 2 * 4 * 15 + 4
    for limit, expected in [(1, 4), (first_weight, 3), (first_weight + 1, 2), (2**31, 1)]:
        shards = list(read_shards(optimizer, model.named_parameters(), shard_bytes=limit))
        assert len(shards) == expected, limit
        assert [key for shard in shards for key in shard] == list(whole)


Shard = dict[str, torch.Tensor]


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {name: each for name, each in state.items() if name != "exp_avg_sq"},
        lambda state: {name: each for name, each in state.items() if name != "step"},
        lambda state: state | {"momentum": state["exp_avg"]},
        lambda state: state | {"exp_avg": state["exp_avg"][:1]},
        lambda state: state | {"step": torch.ones(2)},
    ],
)
def test_the_state_of_other_weights_is_refused(change: Callable[[Shard], Shard]) -> None:
    model = nn.Linear(3, 5, bias=False)
    optimizer = torch.optim.AdamW(model.parameters())
    state = {key.split("/")[1]: value for key, value in stepped(model, optimizer).items()}
    load_entries(optimizer, model.named_parameters(), lambda _: state)
    load_entries(optimizer, model.named_parameters(), lambda _: {})  # a weight that never had a gradient
    with pytest.raises(ValueError, match="weight of \\[5, 3\\]"):
        load_entries(optimizer, model.named_parameters(), lambda _: change(state))
