"""A second body of a model whose weights are sharded, in which whole ones run: to generate, to measure, to save.

It is the model as it was before it was sharded: ordinary modules without the sharding's hooks, which would gather
again what is gathered already, in an order that all ranks had to share. It holds no weights but inside the contexts,
where the adapter has it in place of its model.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from gpg_vl.models.adapter import Adapter
from gpg_vl.models.weights.masters import widened_as_they_run
from gpg_vl.processes.pulse import PULSE

Gather = Callable[[nn.Parameter, torch.dtype], Tensor]
"""Of a parameter of which this rank has a share: the whole weight in a type, on the device. All ranks call it."""


class GatheredModel:
    """Gathers an adapter's weights. All ranks enter and leave its contexts together."""

    def __init__(self, adapter: Adapter, gather: Gather, types: Mapping[str, torch.dtype], device: torch.device):
        """Before the adapter's model is sharded.

        Args:
            types: that the model computes in, by the name of a weight or buffer; others are computed in as stored
            device: that it computes on
        """
        self._adapter = adapter
        self._sharded: PreTrainedModel = adapter.model
        self._gather_one = gather
        self._types = types
        self._device = device
        self._body = _copy_without_weights(adapter.model)
        self._weights = find_places(self._body, "_parameters")
        self._buffers = find_places(self._body, "_buffers")

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, the adapter has all weights, in the types that it computes in."""
        with self._running(self._device, self._types), self._filled(dict(self._gather(self._types))):
            yield

    @contextmanager
    def in_float32(self) -> Iterator[None]:
        """Inside, the adapter computes in float32. Most layers of the text model have their weights in the types that
        they are computed in, and widen them as they run; all other weights are as they are stored."""
        with self._running(self._device, {}):
            layers = self._adapter.lent_layers(with_trained=True)
            lent = {id(each) for layer in layers for each in layer.parameters(recurse=False)}
            named = {name for name, place in self._weights.items() if id(place.get()) in lent}
            types = {name: dtype for name, dtype in self._types.items() if name in named}
            with self._filled(dict(self._gather(types))), widened_as_they_run(layers if types else ()):
                yield

    @contextmanager
    def to_save(self) -> Iterator[None]:
        """Inside, the first rank's adapter has copies, as they are stored and in the host's memory, of all weights that
        its folder holds: of a LoRA adapter those that are trained, and the others have no values."""
        is_first = torch.distributed.get_rank() == 0
        names = None if self._adapter.config.lora is None else self._trained()
        found = {name: each.to("cpu", copy=True) for name, each in self._gather({}, names) if is_first}
        if not is_first:
            yield
            return
        with self._running(torch.device("cpu"), {}), self._filled(found):
            yield

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Inside, the adapter has the weights that ``there`` names, to read them; it computes nothing."""
        with self._running(self._device, self._types):
            yield

    @contextmanager
    def there(self, names: Collection[str]) -> Iterator[None]:
        """Within ``in_turn``: inside, the adapter has these weights; all ranks enter it together, for the same ones."""
        with self._filled(dict(self._gather(self._types, set(names)))):
            yield

    def _trained(self) -> set[str]:
        return {name for name, each in self._sharded.named_parameters() if each.requires_grad}

    @torch.no_grad()
    def _gather(
        self, types: Mapping[str, torch.dtype], names: Collection[str] | None = None
    ) -> Iterator[tuple[str, Tensor]]:
        """Whole weights by name, one after the other.

        Args:
            names: of some of them; None: all
        """
        for name, parameter in self._sharded.named_parameters():
            if names is None or name in names:
                with PULSE.beating("the gathering of weights"):
                    whole = self._gather_one(parameter, types.get(name, parameter.dtype))
                yield name, whole

    @contextmanager
    def _running(self, device: torch.device, types: Mapping[str, torch.dtype]) -> Iterator[None]:
        """Inside, the adapter has the body in place of the sharded model."""
        assert self._adapter.model is self._sharded, "the weights are gathered already"
        held = {name: place.get() for name, place in self._buffers.items()}
        for name, place in self._buffers.items():
            place.put(held[name].to(device, types.get(name)))
        self._body.train(self._sharded.training)
        self._adapter.model = self._body
        try:
            yield
        finally:
            self._adapter.model = self._sharded
            for name, place in self._buffers.items():
                place.put(held[name])

    @contextmanager
    def _filled(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside, the body has these weights."""
        empty = {name: self._weights[name].get() for name in weights}
        for name, weight in weights.items():
            self._weights[name].put(nn.Parameter(weight, requires_grad=empty[name].requires_grad))
        try:
            yield
        finally:
            for name, each in empty.items():
                self._weights[name].put(each)


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
