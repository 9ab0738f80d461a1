"""Code that runs on the meta device -> the bytes that would live at its worst moment, by part.

Tensors of the meta device have shapes and no values, so the kit's own forward and backward run on them within seconds,
whatever the model. What counts is when a storage is born and when it is gone.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

GRADIENTS, LOGITS, ACTIVATIONS, VISION, CACHE = "gradients", "logits", "activations", "vision", "KV cache"


@dataclass(frozen=True, slots=True)
class Peak:
    """Bytes at the worst moment, by part, weights left out."""

    parts: Mapping[str, int]
    without_gradients: Mapping[str, int] = field(default_factory=dict)  # at the worst moment for all but gradients


class LiveMemory(TorchDispatchMode):
    """Follows every storage that is made inside of it."""

    def __init__(self, vocabulary: int):
        """
        Args:
            vocabulary: a tensor with this last dimension holds logits
        """
        super().__init__()
        self._vocabulary = vocabulary
        self._live: Counter[str] = Counter()
        self._watched: dict[int, tuple[weakref.ref[Any], str, int]] = {}
        self._part = ACTIVATIONS
        self.num_kernels = 0  # operations that compute something: on a GPU, about as many kernels
        self.restart()

    def restart(self) -> None:
        """Forgets the worst moment so far, not what is live."""
        self._peak, self._worst = 0, Counter[str]()
        self._peak_beside, self._worst_beside = 0, Counter[str]()
        self._note()

    @property
    def peak(self) -> Peak:
        return Peak(dict(self._worst), dict(self._worst_beside))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What is made inside belongs to the part."""
        before, self._part = self._part, name
        try:
            yield
        finally:
            self._part = before

    def skip(self, tensors: Iterable[Tensor]) -> None:
        """Tensors that are counted elsewhere: weights and buffers."""
        for tensor in tensors:
            self._watch(tensor, None)

    def claim(self, tensors: Iterable[Tensor], part: str) -> None:
        """From now on they belong to the part."""
        for tensor in tensors:
            found = self._watched.get(_key(tensor))
            if found is not None and found[1] != part:
                reference, old, size = found
                self._watched[_key(tensor)] = (reference, part, size)
                self._live[old] -= size
                self._live[part] += size

    def claim_gradients(self, weights: Iterable[tuple[Tensor, Tensor]]) -> list[Any]:
        """Each gradient is told from what computes it once it is added to its weight; returns handles to remove.

        Args:
            weights: trained ones, each with what keeps its gradient: itself or its master
        """

        def claim(keeper: Tensor, _: Tensor) -> None:
            assert keeper.grad is not None
            self.claim([keeper.grad], GRADIENTS)

        return [weight.register_post_accumulate_grad_hook(partial(claim, keeper)) for weight, keeper in weights]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = _without_values(func, args, kwargs or {})
        self.num_kernels += func.is_view is False
        result = func(*args, **kwargs)
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor) and _key(tensor) not in self._watched:
                is_logits = tensor.dim() > 1 and tensor.shape[-1] == self._vocabulary
                self._watch(tensor, LOGITS if is_logits else self._part)
        return result

    def _watch(self, tensor: Tensor, part: str | None) -> None:
        storage, key = tensor.untyped_storage(), _key(tensor)
        if key in self._watched:
            return
        size = 0 if part is None else storage.nbytes()
        name = part or ACTIVATIONS
        self._watched[key] = (weakref.ref(storage, partial(self._forget, key)), name, size)
        self._live[name] += size
        self._note()

    def _forget(self, key: int, _: Any) -> None:
        _, part, size = self._watched.pop(key)
        self._live[part] -= size

    def _note(self) -> None:
        total = sum(self._live.values())
        if total > self._peak:
            self._peak, self._worst = total, self._live.copy()
        beside = total - self._live[GRADIENTS]
        if beside > self._peak_beside:
            self._peak_beside, self._worst_beside = beside, self._live.copy()
            del self._worst_beside[GRADIENTS]


def _without_values(func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Arguments on one device: where one is on the meta device, all others are moved there.

    What positions and lengths decide in Python stays on the CPU until then, with its values.
    """
    tensors = [each for each in tree_iter((args, kwargs)) if isinstance(each, Tensor)]
    if not any(each.is_meta for each in tensors) or all(each.is_meta or not each.dim() for each in tensors):
        return args, kwargs
    if func.overloadpacket in _INDEXING:
        args = (args[0], [each for index in args[1] for each in _whole_numbers(index)], *args[2:])
    return tree_map(_to_meta, args), tree_map(_to_meta, kwargs)


_INDEXING = (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_)


def _whole_numbers(index: Any) -> Sequence[Any]:
    """A mask as indices: how many it selects depends on its values."""
    is_mask = isinstance(index, Tensor) and index.dtype == torch.bool and not index.is_meta
    return index.nonzero().unbind(1) if is_mask else [index]


def _to_meta(value: Any) -> Any:
    return torch.empty_like(value, device="meta") if isinstance(value, Tensor) and not value.is_meta else value


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
