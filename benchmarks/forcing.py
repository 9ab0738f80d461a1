"""Completions of given lengths from random weights: the end token comes when it is due, and not before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import LogitsProcessor

from gpg_vl.models.adapter import Adapter
from gpg_vl.rollout import hf as rollout

ORDINARY_TOKEN = 20


class ForceLengths(LogitsProcessor):
    """For ``generate``: row r ends at its length and not before."""

    def __init__(self, counts: Sequence[int], prompt_length: int, adapter: Adapter):
        self._counts = torch.tensor(counts, device=adapter.device)
        self._prompt_length = prompt_length
        self._ends = list(adapter.end_token_ids)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        is_last = self._counts == input_ids.shape[1] - self._prompt_length + 1
        end = scores[:, self._ends[0]].clone()
        scores[:, self._ends] = -torch.inf
        scores[is_last] = -torch.inf
        scores[is_last, self._ends[0]] = end[is_last]
        return scores


@contextmanager
def forced_lengths(
    counts: Sequence[int], adapter: Adapter, on_step: Callable[[int], None] = lambda step: None
) -> Iterator[None]:
    """The same for the kit's loop: it samples, then the token is replaced where an end is due or not allowed.

    Args:
        on_step: called with the number of each token before it is chosen, from 0
    """
    ends = torch.tensor(adapter.end_token_ids, device=adapter.device)
    original = rollout.TokenChooser

    class Chooser(original):  # type: ignore[misc,valid-type]
        targets = torch.tensor(counts, device=adapter.device)

        def keep(self, kept: Tensor) -> None:
            super().keep(kept)
            self.targets = self.targets[kept]

        def __call__(self, logits: Tensor, step: int) -> Tensor:
            on_step(step)
            tokens = super().__call__(logits, step)
            tokens = torch.where(torch.isin(tokens, ends), ORDINARY_TOKEN, tokens)
            return torch.where(self.targets == step + 1, ends[0], tokens)

    rollout.TokenChooser = Chooser  # type: ignore[misc]
    try:
        yield
    finally:
        rollout.TokenChooser = original  # type: ignore[misc]
