"""The noise of sampling before it was one number a token, so that runs of that version can be compared with it."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from gpg_vl.rollout.token_choice import TokenChooser

NOISE_PER_DRAW = 2**16


class EarlierChooser(TokenChooser):
    """``argmax p / e`` with e ~ Exp(1) for each token of the vocabulary, from a generator of each completion."""

    def __init__(self, sampling: Any, keys: Any, device: torch.device):
        super().__init__(sampling, keys, device)
        self._max_new_tokens = sampling.max_new_tokens
        self._generators = [_generator(key) for key in keys]
        self._places = torch.arange(len(keys))  # of the rows that are left, in the noise
        self._log_noise = torch.empty(0)

    def __call__(self, scores: Tensor, step: int) -> Tensor:
        if self._sampling.temperature == 0:
            return scores.argmax(dim=-1)
        block = min(self._max_new_tokens, max(1, NOISE_PER_DRAW // scores.shape[-1]))
        if step % block == 0:
            noise = torch.empty(len(self._generators), block, scores.shape[-1])
            for of_row, generator in zip(noise, self._generators, strict=True):
                of_row.exponential_(generator=generator)
            self._log_noise, self._places = noise.log_(), torch.arange(len(noise))
        return (scores - self._log_noise[self._places, step % block]).argmax(dim=-1)

    def keep(self, kept: Tensor) -> None:
        super().keep(kept)
        self._generators = [self._generators[place] for place in kept.tolist()]
        self._places = self._places[kept]


def _generator(key: tuple[object, ...]) -> torch.Generator:
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
