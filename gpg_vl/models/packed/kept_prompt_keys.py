"""A prompt's keys and values, kept for completions that run behind it in passes of their own.

Each of these passes ends with its own backward pass, which adds to the gradient of what is kept; the prompt's own
backward pass starts from the sum. So the prompt runs once, however many passes its completions take.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


@dataclass(frozen=True, slots=True)
class Kept:
    """A tensor at the end of one graph, and the same at the start of others, which add up its gradient."""

    made: Tensor
    leaf: Tensor

    @classmethod
    def of(cls, made: Tensor) -> Kept:
        return cls(made, made.detach().requires_grad_(made.requires_grad))


class KeptKeys(Cache):
    """Takes the keys and values of the first pass, and shows them to every later one, which it does not keep."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=_KeptLayer)

    def kept(self) -> Iterator[Kept]:
        for layer in self.layers:
            assert isinstance(layer, _KeptLayer)
            yield from layer.kept


class _KeptLayer(DynamicLayer):
    kept: tuple[Kept, ...] = ()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """[R, heads, new, d] each; all keys and all values, those of the first pass in its own graph."""
        if self.is_initialized:
            keys, values = (each.leaf for each in self.kept)
            return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)
        self.lazy_initialization(key_states, value_states)
        self.kept = (Kept.of(key_states), Kept.of(value_states))
        self.keys, self.values = (each.leaf for each in self.kept)
        return key_states, value_states


@dataclass(frozen=True, slots=True)
class KeptPrompt:
    """What the completions of a prompt read of it."""

    keys: KeptKeys
    last_state: Kept  # [1, H], which predicts the first token of each

    def backward(self) -> None:
        """From the gradients that the passes of its completions have left, to the weights."""
        kept = [each for each in (self.last_state, *self.keys.kept()) if each.leaf.grad is not None]
        if kept:
            torch.autograd.backward([each.made for each in kept], [each.leaf.grad for each in kept])
