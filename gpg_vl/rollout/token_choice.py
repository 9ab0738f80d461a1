"""The next token of every row: temperature, top-k, top-p, bans, and noise that is seeded per completion."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList, TopKLogitsWarper, TopPLogitsWarper

from gpg_vl.rollout.engine import Sampling

_NO_HISTORY: Any = torch.empty(0, dtype=torch.long)  # passed to top-k and top-p as the tokens so far; they ignore it


NOISE_PER_DRAW = 2**16
"""How many numbers a completion's generator draws at once; with a small vocabulary, enough for several tokens."""


class TokenChooser:
    """Picks tokens by the exponential race, ``argmax p / e`` with e ~ Exp(1): the Gumbel-max trick, in float32."""

    def __init__(self, sampling: Sampling, keys: Sequence[tuple[object, ...]], vocab_size: int, device: torch.device):
        self._sampling = sampling
        self._warpers = LogitsProcessorList()
        if sampling.top_k:
            self._warpers.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            self._warpers.append(TopPLogitsWarper(sampling.top_p))
        self._block = min(sampling.max_new_tokens, max(1, NOISE_PER_DRAW // vocab_size))
        self._vocab_size = vocab_size
        self._device = device
        self._generators = [] if sampling.temperature == 0 else [_generator(key, device) for key in keys]
        self._log_noise = torch.empty(0)
        self.live = list(range(len(keys)))
        """The rows that are left."""
        self._places: Tensor | None = None  # of the rows that are left, in the noise; None while they are all of it

    def warp(self, logits: Tensor) -> Tensor:
        """[R, V] logits of the distribution that is sampled from."""
        if self._sampling.temperature == 0:
            return logits
        scores: Tensor = self._warpers(_NO_HISTORY, logits / self._sampling.temperature)
        return scores

    def log_probs(self, scores: Tensor, tokens: Tensor) -> Tensor:
        """[R] log-probs of the chosen tokens; 0 at temperature 0, where the choice is deterministic."""
        if self._sampling.temperature == 0:
            return torch.zeros(len(tokens))
        return scores.log_softmax(dim=-1).gather(-1, tokens[:, None])[:, 0]

    def __call__(self, scores: Tensor, step: int) -> Tensor:
        """Tokens [R] of the rows that are left, from their warped logits [R, V]."""
        if self._sampling.temperature == 0:
            return scores.argmax(dim=-1)
        if step % self._block == 0:
            self._draw_noise()
        noise = self._log_noise[:, step % self._block]
        return (scores - (noise if self._places is None else noise[self._places])).argmax(dim=-1)

    @staticmethod
    def scores_of(scores: Tensor, tokens: Tensor) -> Tensor:
        """[R] of the chosen tokens; not finite where a row's logits hold NaN or infinity: argmax takes these first."""
        return scores.gather(-1, tokens[:, None])[:, 0]

    def keep(self, rows: Sequence[int]) -> None:
        """Leaves out all rows but these, which are counted among those that were left."""
        kept = torch.tensor(rows, device=self._device)
        self.live = [self.live[row] for row in rows]
        self._places = kept if self._places is None else self._places[kept]

    def _draw_noise(self) -> None:
        """Log of the noise of the next steps, [R, block, V]."""
        noise = torch.empty(len(self.live), self._block, self._vocab_size, device=self._device)
        for of_row, row in zip(noise, self.live, strict=True):
            of_row.exponential_(generator=self._generators[row])
        self._log_noise = noise.log_()
        self._places = None


def _generator(key: tuple[object, ...], device: torch.device) -> torch.Generator:
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "big") >> 1)
