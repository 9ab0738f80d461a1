"""A decode step on tensors that stay where they are, so that a CUDA graph can replay it.

A step takes as long as a CPU takes to start its operations, some thirty for each layer; a graph starts them all at
once. Its operations and tensors are fixed, so the cache has room for all tokens from the beginning, and a mask hides
what is not there yet. Which token comes next, and where, is in the tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from gpg_vl.errors import first_line, is_out_of_memory
from gpg_vl.models.decoding.decode_step import added_mask, run_layers

_BLOCK = 64
"""The number of keys is a multiple of it: torch's attention copies a mask of other widths in each call."""


@cache
def _side_stream() -> torch.cuda.Stream:
    """One for all captures: libraries keep memory for each stream that they have been called on."""
    return torch.cuda.Stream()


class StaticLayer:
    """Keys and values of a layer, with room for all tokens."""

    def __init__(self, layer: Any, room: int, place: Tensor):
        """
        Args:
            layer: of a ``GrowingCache``; its tokens are copied
            room: number of tokens
            place: [1], where the next token goes
        """
        used = torch.cat((layer.keys, layer.values), dim=1)
        # zeros: what is hidden counts with weight 0, and 0 times what memory happens to hold may be NaN
        self._room = used.new_zeros(*used.shape[:2], room, used.shape[-1])
        self._room[..., : used.shape[2], :] = used
        self._place = place
        self._show()

    def append(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Takes keys and values [R, 2 heads, 1, d] of the next token; returns all, those that are hidden too."""
        self._room.index_copy_(2, self._place, states)
        return self.keys, self.values

    def keep(self, rows: Tensor) -> None:
        self._room = self._room[rows]
        self._show()

    def _show(self) -> None:
        self.keys, self.values = self._room.chunk(2, dim=1)


class StaticStep:
    """The next token of R rows; of a model that ``decode_step`` runs layer by layer."""

    def __init__(self, text: Any, filled: Cache, visible: Tensor | None, positions: Tensor, num_steps: int):
        """
        Args:
            text: see ``decode_step.own_text``
            filled: the cache after the prefill; emptied, layer by layer
            visible: [R, keys] bool, which keys of the cache are real; None if all are
            positions: [R] of the next token
            num_steps: that are taken at most
        """
        length = filled.get_seq_length()
        room = -(-(length + num_steps) // _BLOCK) * _BLOCK
        self._text = text
        self._place = torch.tensor([length], device=positions.device)
        self._positions = positions.clone()
        self._tokens = torch.zeros_like(positions)
        shown = torch.zeros(len(positions), room, dtype=torch.bool, device=positions.device)
        shown[:, :length] = True if visible is None else visible
        self._mask = added_mask(shown, text.dtype)
        self.layers: list[Any] = list(filled.layers)
        for number, layer in enumerate(self.layers):
            self.layers[number] = filled.layers[number] = StaticLayer(layer, room, self._place)  # type: ignore[call-overload]
        self._replay: Callable[[], Tensor] | None = None

    @property
    def num_rows(self) -> int:
        return len(self._tokens)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Hidden states [R, H] after the last norm, of the tokens [R]; overwritten by the next call under a graph."""
        self._tokens.copy_(tokens)
        return self._run() if self._replay is None else self._replay()

    def keep(self, rows: Tensor) -> None:
        """Leaves out all rows but these. What was captured is lost: its tensors are others now."""
        self._replay = None
        self._tokens, self._positions, self._mask = self._tokens[rows], self._positions[rows], self._mask[rows]
        for layer in self.layers:
            layer.keep(rows)

    def capture(self) -> str | None:
        """Captures the step as a CUDA graph; returns why that is not possible, else None."""
        try:
            self._replay = self._captured()
        except RuntimeError as error:
            # torch ends the capture in any case, and what that raises hides why it failed
            cause = error.__context__ if isinstance(error.__context__, RuntimeError) else error
            if is_out_of_memory(cause):
                raise cause from None
            return first_line(cause)
        return None

    def _captured(self) -> Callable[[], Tensor]:
        graph, side, current = torch.cuda.CUDAGraph(), _side_stream(), torch.cuda.current_stream()
        with torch.cuda.stream(current):  # which torch does not come back to where a capture fails
            side.wait_stream(current)
            with torch.cuda.stream(side):  # libraries set themselves up in a first call
                self._run()
            current.wait_stream(side)
            for counter in (self._place, self._positions):  # the key that it wrote is written again
                counter.sub_(1)
            # threads may pin images meanwhile
            with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
                hidden = self._run()

        def replay() -> Tensor:
            graph.replay()
            return hidden

        return replay

    def _run(self) -> Tensor:
        self._mask.index_fill_(3, self._place, 0.0)
        hidden = run_layers(self._text, self._tokens, self._positions, self._mask, self)
        for counter in (self._place, self._positions):
            counter.add_(1)
        return hidden
