"""Moments by weight, without DeepSpeed; on several ranks: ``faults/test_rank_checkpoints.py``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gpg_vl.run.moments import open_moments, write_own
from gpg_vl.update.optimizer_state import Slice, load_entries, read_portions
from tests.support.moments import Held, as_stored, whole_tensors


def stepped(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Slice]:
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    [portion] = read_portions(optimizer, model.named_parameters())
    return portion


def test_moments_of_another_optimizer_are_taken_up() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    first = torch.optim.AdamW(model.parameters())
    assert list(read_portions(first, model.named_parameters())) == [{}], "before the first step there are none"
    portion = stepped(model, first)
    assert set(portion) == {
        f"{n}/{entry}" for n, _ in model.named_parameters() for entry in ("step", "exp_avg", "exp_avg_sq")
    }
    second = torch.optim.AdamW(model.parameters())
    stepped(model, second)
    load_entries(second, model.named_parameters(), as_stored(portion))
    [again] = map(whole_tensors, read_portions(second, model.named_parameters()))
    expected = whole_tensors(portion)
    assert expected.keys() == again.keys()
    assert all(torch.equal(expected[key], again[key]) for key in expected)


def test_a_rank_that_has_what_the_first_one_has_saves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(3, 5)
    optimizer = torch.optim.AdamW(model.parameters())
    stepped(model, optimizer)
    monkeypatch.setenv("RANK", "1")
    assert list(read_portions(optimizer, model.named_parameters())) == []


def test_what_an_optimizer_has_once_for_all_weights_is_written_for_each(tmp_path: Path) -> None:
    """As 8-bit AdamW its tables, which a file of tensors must not share."""
    model = nn.Linear(3, 5)
    table, optimizer = torch.arange(4.0), torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        state1 = torch.full(parameter.shape, 7, dtype=torch.uint8)
        optimizer.state[parameter] = {"state1": state1, "qmap1": table, "step": 3}
    write_own(read_portions(optimizer, model.named_parameters()), tmp_path, 0)
    with open_moments(tmp_path) as stored:
        assert {name: sorted(entries) for name, entries in stored.items()} == {
            name: ["qmap1", "state1", "step"] for name in ("weight", "bias")
        }
        assert torch.equal(stored["bias"]["qmap1"].read(0, 4), table)
        assert torch.equal(stored["weight"]["state1"].read(4, 2), torch.full((2,), 7, dtype=torch.uint8))


def test_portions_end_at_a_weight_behind_the_limit() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    optimizer = torch.optim.AdamW(model.parameters())
    whole = stepped(model, optimizer)
    first_weight = 2 * 4 * 15 + 4
    for limit, expected in [(1, 4), (first_weight, 3), (first_weight + 1, 2), (2**31, 1)]:
        portions = list(read_portions(optimizer, model.named_parameters(), portion_bytes=limit))
        assert len(portions) == expected, limit
        assert [key for portion in portions for key in portion] == list(whole)


State = dict[str, Tensor]


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
def test_the_state_of_other_weights_is_refused(change: Callable[[State], State]) -> None:
    model = nn.Linear(3, 5, bias=False)
    optimizer = torch.optim.AdamW(model.parameters())
    state = {key.split("/")[1]: value for key, value in whole_tensors(stepped(model, optimizer)).items()}

    def load(state: State) -> None:
        stored = {name: Held(each) for name, each in state.items()}
        load_entries(optimizer, model.named_parameters(), lambda _: stored)

    load(state)
    load({})  # a weight that never had a gradient
    with pytest.raises(ValueError, match="weight of \\[5, 3\\]"):
        load(change(state))
