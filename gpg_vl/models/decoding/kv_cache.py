"""The rollout's cache: keys and values of attention layers, states of recurrent ones.

A decode step adds its own keys and values and does not copy the earlier ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, LinearAttentionLayer

TOKENS_PER_ROOM = 64
"""Number of tokens that the cache grows by. transformers' cache copies all earlier tokens in every step, which takes a
quarter of a step's time on a CPU."""

RECURRENT_LAYERS = ("linear_attention", "conv")
"""Types of layers that keep a state of fixed size instead of keys and values."""


class GrowingCache(Cache):
    """``DynamicCache`` for a rollout: it can grow, expand to groups and drop rows, but not be cropped or reordered."""

    def __init__(self, layer_types: Sequence[str] = ()) -> None:
        """
        Args:
            layer_types: the type of each layer; empty if all are attention
        """
        if layer_types:
            super().__init__([StateLayer() if kind in RECURRENT_LAYERS else GrowingLayer() for kind in layer_types])
        else:
            super().__init__(layer_class_to_replicate=GrowingLayer)


class GrowingLayer(DynamicLayer):
    """``keys`` and ``values`` [R, heads, S, d] are the used part of one tensor with room for more tokens."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        rows, heads, _, width = value_states.shape
        self._room = value_states.new_empty(rows, 2 * heads, 0, width)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Appends the new tokens, [R, heads, new, d] each; returns all keys and all values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        return self.append(torch.cat((key_states.to(value_states.dtype), value_states), dim=1))

    def append(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """The same for keys and values in one tensor [R, 2 heads, new, d], keys first.

        Keys are kept in the type of the values: under autocast the rotary embedding makes them float32, and attention
        would cast all of them back in every step.
        """
        start = self.get_seq_length()
        end = start + states.shape[-2]
        if end > self._room.shape[-2]:
            self._room = _with_room(self._room[..., :start, :], end)
        self._room[..., start:end, :] = states
        self._show(end)
        return self.keys, self.values  # type: ignore[return-value]

    def batch_repeat_interleave(self, repeats: int) -> None:
        length = self.get_seq_length()
        self._room = self._room.repeat_interleave(repeats, dim=0)
        self._show(length)

    def batch_select_indices(self, indices: Tensor) -> None:
        length = self.get_seq_length()
        self._room = self._room[indices]
        self._show(length)

    def _show(self, length: int) -> None:
        self.keys, self.values = self._room[..., :length, :].chunk(2, dim=1)


def _with_room(used: Tensor, length: int) -> Tensor:
    """A copy of ``used`` [R, heads, S, d] at the start of a tensor for at least ``length`` tokens."""
    room = used.new_empty(*used.shape[:-2], length + TOKENS_PER_ROOM, used.shape[-1])
    room[..., : used.shape[-2], :] = used
    return room


class StateLayer(LinearAttentionLayer):
    """The states of a recurrent layer, one per row: they can be repeated and selected like keys."""

    def batch_repeat_interleave(self, repeats: int) -> None:
        rows = torch.arange(len(self.conv_states[0]))  # type: ignore[arg-type]
        self.reorder_cache(rows.repeat_interleave(repeats))  # type: ignore[arg-type]

    def batch_select_indices(self, indices: Tensor) -> None:
        self.reorder_cache(indices)  # type: ignore[arg-type]
