"""A second body of a model whose weights are sharded, in which whole ones run: to generate, to measure, to save.

It is the model as it was before it was sharded: ordinary modules without the sharding's hooks, which would gather
again what is gathered already, in an order that all ranks had to share. It holds no weights but inside the contexts,
where the adapter has it in place of its model.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedConfig, PreTrainedModel

from gpg_vl.models.adapter import Adapter
from gpg_vl.models.masters import find_rounded
from gpg_vl.processes.pulse import PULSE


class GatheredModel:
    """Gathers an adapter's weights. All ranks enter and leave its contexts together."""

    def __init__(self, adapter: Adapter, dtype: torch.dtype | None, device: torch.device):
        """Before the adapter's model is sharded.

        Args:
            dtype: that the model computes in; None: that of its weights
            device: that it computes on
        """
        self._adapter = adapter
        self._sharded: PreTrainedModel = adapter.model
        self._dtype = dtype
        self._device = device
        self._body = _copy_without_weights(adapter.model)
        rounded = {name for name, _ in find_rounded(adapter.model)}
        self._weights = find_places(self._body, "_parameters")
        buffers = find_places(self._body, "_buffers")
        self._buffers = [_Buffer(place, name in rounded) for name, place in buffers.items()]

    @contextmanager
    def whole(self, *, is_exact: bool = False) -> Iterator[None]:
        """Inside, the adapter has all weights, in the compute type or as they are stored."""
        dtype = None if is_exact else self._dtype
        with self._filled({name: each.to(self._device) for name, each in self._gather(dtype)}, self._device, dtype):
            yield

    @contextmanager
    def to_save(self) -> Iterator[None]:
        """Inside, the first rank's adapter has copies of all weights as they are stored, in the host's memory."""
        is_first = torch.distributed.get_rank() == 0
        found = {name: each.to("cpu", copy=True) for name, each in self._gather(None) if is_first}
        if not is_first:
            yield
            return
        with self._filled(found, torch.device("cpu"), None):
            yield

    def _gather(self, dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
        """Whole weights by name, one after the other."""
        named: Iterator[tuple[str, Any]] = self._sharded.named_parameters()
        for name, parameter in named:
            assert isinstance(parameter, DTensor), f"{name} is gathered in the middle of a pass"
            mine: Any = parameter.detach()  # perhaps in the host's memory, where its ranks exchange nothing
            with PULSE.beating("the gathering of weights"):
                whole = mine.to(self._device, dtype or mine.dtype).full_tensor()
            yield name, whole

    @contextmanager
    def _filled(self, weights: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype | None) -> Iterator[None]:
        assert self._adapter.model is self._sharded, "the weights are gathered already"
        empty = {name: place.get() for name, place in self._weights.items()}
        held = [buffer.place.get() for buffer in self._buffers]
        for name, place in self._weights.items():
            place.put(nn.Parameter(weights[name], requires_grad=empty[name].requires_grad))
        for buffer in self._buffers:
            buffer.place.put(buffer.place.get().to(device, dtype if buffer.is_rounded else None))
        self._body.train(self._sharded.training)
        self._adapter.model = self._body
        try:
            yield
        finally:
            self._adapter.model = self._sharded
            for name, place in self._weights.items():
                place.put(empty[name])
            for buffer, tensor in zip(self._buffers, held, strict=True):
                buffer.place.put(tensor)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor is in a model: in each module that it is tied in, under its name there."""

    modules: list[tuple[dict[str, Tensor | None], str]]

    def get(self) -> Tensor:
        tensors, name = self.modules[0]
        found = tensors[name]
        assert found is not None
        return found

    def put(self, tensor: Tensor) -> None:
        for tensors, name in self.modules:
            tensors[name] = tensor


@dataclass(frozen=True, slots=True)
class _Buffer:
    place: Place
    is_rounded: bool  # where the compute type is another


def find_places(model: nn.Module, kind: str) -> dict[str, Place]:
    """Where a model's tensors are, by name, in the order of ``named_parameters``.

    Tensors that are tied share a place, under their first name.

    Args:
        kind: the attribute of a module with its own tensors
    """
    names: dict[int, str] = {}
    places: defaultdict[str, list[tuple[dict[str, Tensor | None], str]]] = defaultdict(list)
    for prefix, module in model.named_modules():
        tensors: dict[str, Tensor | None] = getattr(module, kind)
        for name, tensor in tensors.items():
            if tensor is not None:
                full_name = f"{prefix}.{name}" if prefix else name
                places[names.setdefault(id(tensor), full_name)].append((tensors, name))
    return {name: Place(modules) for name, modules in places.items()}


def _copy_without_weights(model: PreTrainedModel) -> PreTrainedModel:
    """Its modules with weights on the meta device, its own buffers, and the same configs, whose values may change."""
    memo: dict[int, object] = {
        id(each): nn.Parameter(each.to("meta"), requires_grad=each.requires_grad) for each in model.parameters()
    }
    for module in model.modules():
        memo |= {id(each): each for each in vars(module).values() if isinstance(each, PreTrainedConfig)}
    return copy.deepcopy(model, memo)
