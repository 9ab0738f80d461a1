"""What vLLM's worker does for the kit, on a worker that does as little as it can."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gpg_vl.rollout.served.vllm_worker import keep_work_space, restore_work_space, take_all, work_space


class Model(nn.Module):
    """As those of vLLM, it says which weights it has taken."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        self.register_buffer("places", torch.arange(3.0))
        self.space = [torch.zeros(2), torch.zeros(2)]
        self.by_name = {"a": (torch.ones(2),), "none": None, "empty": torch.empty(0)}
        self.alias = self.layers[0].weight.data
        self.kv_cache = torch.zeros(2)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        named = dict(self.named_parameters())
        taken = [named[name].data.copy_(tensor) is not None and name for name, tensor in weights if name in named]
        return set(map(str, taken))


class Worker:
    def __init__(self) -> None:
        self.model = Model()

    def get_model(self) -> Model:
        return self.model

    def reload_weights(self, weights_iterator: Any) -> None:
        self.model.load_weights(weights_iterator)


def new_weights(model: Model) -> dict[str, Tensor]:
    return {name: torch.full_like(each, 7.0) for name, each in model.named_parameters()}


def test_all_weights_are_taken() -> None:
    worker = Worker()
    take_all(worker, {"weights_iterator": new_weights(worker.model).items()})
    assert all(bool((each == 7).all()) for each in worker.model.parameters())
    assert "load_weights" not in vars(worker.model)


@pytest.mark.parametrize("renamed", [False, True])
def test_a_weight_that_is_kept_is_an_error(renamed: bool) -> None:
    """It lacks in what is given, or has a name that the model passes over."""
    worker = Worker()
    weights = new_weights(worker.model)
    weight = weights.pop("layers.1.bias")
    given = {**weights, "layers.one.bias": weight} if renamed else weights
    with pytest.raises(RuntimeError, match=r"1 of its 4 .*layers\.1\.bias"):
        take_all(worker, {"weights_iterator": given.items()})
    assert "load_weights" not in vars(worker.model)


def test_a_model_that_says_nothing_is_believed() -> None:
    worker, taken = Worker(), dict[str, torch.Tensor]()
    worker.model.load_weights = taken.update  # type: ignore[assignment, method-assign]
    take_all(worker, {"weights_iterator": [("a", torch.ones(1))]})
    assert taken == {"a": torch.ones(1)}


def test_work_space_outlives_sleep() -> None:
    worker = Worker()
    space = work_space(worker.model)
    assert [each.tolist() for each in space] == [[0, 0], [0, 0], [1, 1]], "no weight, buffer, keys or values"
    with torch.inference_mode():
        worker.model.space.append(torch.full((2,), 5.0))
    keep_work_space(worker)
    worker.model.space[0].fill_(torch.nan)
    with torch.inference_mode():
        worker.model.space[2].fill_(torch.nan)
    restore_work_space(worker)
    assert [each.tolist() for each in worker.model.space] == [[0, 0], [0, 0], [5, 5]]
