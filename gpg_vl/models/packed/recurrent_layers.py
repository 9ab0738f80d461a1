"""Recurrent layers in packed rows: the prompts run once, then the completions as a batch behind their prompts' states.

A recurrent layer reads its row from left to right, so no mask keeps one completion out of the next. ``regroup`` wraps
the layer's own forward: for packed rows it is called twice, with the prompts and with all completions, and the results
go back to where their tokens stand. It is two calls whatever the rows hold, so that ranks that share weights agree.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, LinearAttentionLayer

_CACHE_NAMES = {"cache", "cache_params", "past_key_values"}
"""Of the argument for a cache: each layer has one of them, from transformers 5.24 on the first."""
SHORTEST = 2
"""Fewest tokens that prompts and completions are padded to: one alone takes kernels that have no backward pass."""


@dataclass(frozen=True, slots=True)
class RegroupedRows:
    """Where the tokens of packed rows [R, S] stand, numbered row after row; -1 is padding."""

    prompts: Tensor  # [R, P], padded on the left
    completions: Tensor  # [N, L], padded on the right
    rows: Tensor  # [N], each completion's row
    home: Tensor  # [R * S], each token's place in prompts and completions, one behind the other
    real: Tensor | None  # [R, P] bool, which tokens of the prompts are no padding; None if all are


def regroup_rows(segment_ids: Tensor) -> RegroupedRows:
    """
    Args:
        segment_ids: [R, S], 0 prompt, 1.. the row's completions in order, -1 padding
    """
    prompts, completions, rows = [], [], []
    for row, segments in enumerate(segment_ids.cpu()):
        _, prompt, *others = torch.bincount(segments + 1, minlength=2).tolist()
        lengths = [prompt, *(count for count in others if count)]
        first, *behind = (torch.arange(sum(lengths)) + row * len(segments)).split(lengths)
        prompts.append(first)
        completions += behind
        rows += [row] * len(behind)
    if not rows:  # one of no tokens, since the layers take no empty batch
        completions, rows = [torch.arange(0)], [0]
    before, after = _stack(prompts, on_left=True), _stack(completions)
    home, device = _home(before, after, segment_ids.numel()), segment_ids.device
    real = None if (before >= 0).all() else (before >= 0).to(device)
    return RegroupedRows(before.to(device), after.to(device), torch.tensor(rows, device=device), home.to(device), real)


def _stack(parts: Sequence[Tensor], *, on_left: bool = False) -> Tensor:
    """[N, L] of the parts, padded with -1 on one side."""
    stacked = torch.full((len(parts), max(SHORTEST, *map(len, parts))), -1)
    for row, part in zip(stacked, parts, strict=True):
        start = len(row) - len(part) if on_left else 0
        row[start : start + len(part)] = part
    return stacked


def _home(prompts: Tensor, completions: Tensor, num_tokens: int) -> Tensor:
    places = torch.cat([prompts.flatten(), completions.flatten()])
    home = torch.zeros(num_tokens, dtype=torch.long)
    home[places[places >= 0]] = (places >= 0).nonzero()[:, 0]
    return home


def regroup(layer: Any) -> None:
    """Wraps the forward of a recurrent layer, which then takes ``RegroupedRows`` in place of a mask."""
    [cache_name] = _CACHE_NAMES & inspect.signature(type(layer).forward).parameters.keys()
    layer.forward = _Regrouped(layer, cache_name)


@dataclass(frozen=True, slots=True)
class _Regrouped:
    """The forward of its layer. Not a closure: the copy of a model has to call the copy of the layer."""

    layer: Any
    cache_name: str  # the forward's argument for a cache

    def __call__(
        self, hidden_states: Tensor, attention_mask: Tensor | RegroupedRows | None = None, **more: Any
    ) -> Tensor:
        plain = partial(type(self.layer).forward, self.layer)
        if not isinstance(attention_mask, RegroupedRows):
            return plain(hidden_states=hidden_states, attention_mask=attention_mask, **more)  # type: ignore[no-any-return]
        packed, states = attention_mask, StatesInGraph(self.layer.layer_idx)
        more[self.cache_name] = states
        prompts = plain(hidden_states=_take(hidden_states, packed.prompts), attention_mask=packed.real, **more)
        states.expand(packed.rows)
        completions = plain(hidden_states=_take(hidden_states, packed.completions), attention_mask=None, **more)
        results = torch.cat([prompts.flatten(0, 1), completions.flatten(0, 1)])
        return results.index_select(0, packed.home).view_as(hidden_states)


def _take(hidden: Tensor, places: Tensor) -> Tensor:
    """[N, L, H] of the tokens at ``places`` [N, L]; padding holds any token's values."""
    tokens = hidden.flatten(0, 1).index_select(0, places.clamp(min=0).flatten())
    return tokens.view(*places.shape, -1)


class StatesInGraph(Cache):
    """The states of one layer, through which the completions' gradients reach the prompt."""

    def __init__(self, layer_index: int) -> None:
        super().__init__([_StateInGraph() for _ in range(layer_index + 1)])
        self._state: Any = self.layers[-1]

    def expand(self, rows: Tensor) -> None:
        """From one state per prompt to one per completion, of the prompt in ``rows`` [N]."""
        self._state.crop(0)  # to the tokens that the next one's convolution sees
        self._state.reorder_cache(rows)


class _StateInGraph(LinearAttentionLayer):
    """Holds its states as they are, where transformers' layer copies them in place, which has no backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.activate_past_recording()

    def update_recurrent_state(self, recurrent_states: Tensor, state_idx: int = 0, **kwargs: Any) -> Tensor:
        self.recurrent_states[state_idx] = recurrent_states
        self.is_recurrent_states_initialized[state_idx] = True
        return recurrent_states
