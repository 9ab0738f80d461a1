"""The next token of every row: temperature, top-k, top-p, and noise that is seeded per completion."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy
import torch
from torch import Tensor
from transformers import LogitsProcessorList, TopKLogitsWarper, TopPLogitsWarper

from gpg_vl.rollout.engine import Sampling

_NO_HISTORY: Any = torch.empty(0, dtype=torch.long)  # passed to top-k and top-p as the tokens so far; they ignore it


class TokenChooser:
    """Samples by the inverse of the distribution function, with one number of noise for each token of a completion.

    The numbers are those of a counter-based generator (Philox): its key is the completion, its counter the step.
    """

    def __init__(self, sampling: Sampling, keys: Sequence[tuple[object, ...]], device: torch.device):
        """
        Args:
            keys: one per row, which determines its noise
        """
        self._sampling = sampling
        self._warpers = LogitsProcessorList()
        if sampling.top_k:
            self._warpers.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            self._warpers.append(TopPLogitsWarper(sampling.top_p))
        if sampling.temperature:
            noise = numpy.stack([_noise(key, sampling.max_new_tokens) for key in keys])
            self._noise = torch.from_numpy(noise).to(device)  # [R, steps] of the rows that are left

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
        return pick(scores, self._noise[:, step])

    def keep(self, kept: Tensor) -> None:
        """Leaves out all rows but these, which are counted among those that were left."""
        if self._sampling.temperature:
            self._noise = self._noise[kept]


def pick(scores: Tensor, noise: Tensor) -> Tensor:
    """Tokens [R]: the first ones at which the sum of the probabilities up to them exceeds the noise.

    Probabilities are summed up as whole numbers, multiples of 2^-53. So the sums are exact on every device, and a token
    of probability 0 is never picked.

    Args:
        scores: [R, V] logits
        noise: [R] float64 in [0, 1)
    """
    sums = scores.softmax(dim=-1).mul_(2.0**53).long().cumsum_(dim=-1)
    whole = sums[:, -1:]
    share = torch.minimum((noise[:, None] * whole).long(), whole - 1)  # the product may be rounded up
    places = torch.searchsorted(sums, share, right=True)[:, 0]
    return places.clamp_(max=scores.shape[-1] - 1)  # of logits that are not finite


def _noise(key: tuple[object, ...], num: int) -> numpy.ndarray[Any, Any]:
    """[num] float64 in [0, 1), of which the first ones do not depend on ``num``."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return numpy.random.Generator(numpy.random.Philox(key=int.from_bytes(digest, "big"))).random(num)
