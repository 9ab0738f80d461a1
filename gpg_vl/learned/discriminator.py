"""GAPO's discriminator: gold completions against sampled ones, on what the frozen initial model knows of the prompt.

    s_0 = tanh(P x)                x: state of the initial model after the prompt and its images
    s_t = tanh(A s_(t-1) + B e_t)  e_t: embedding of the completion's token t
    D   = v . s_T + b              loss = mean of binary cross-entropy; gold 1, sampled 0

x and e_t have unit length. With ``spectral_norm``, P, A, B and v are divided by their largest singular value, so that
no step makes a difference larger.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Discriminator(nn.Module):
    def __init__(self, hidden_size: int, width: int, spectral_norm: bool, seed: int):
        """
        Args:
            hidden_size: H, of the initial model
        """
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator))

        self._spectral_norm = spectral_norm
        self.of_prompt = draw(width, hidden_size)
        self.of_token = draw(width, hidden_size)
        self.carry = nn.Parameter(draw(width, width).detach() / math.sqrt(width))
        self.judge = nn.Parameter(draw(1, width).detach() / math.sqrt(width))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, prompts: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Logits [N] of being gold.

        Args:
            prompts: [N, H]
            tokens: [N, T, H] embeddings, padded at the end
            lengths: [N]
        """
        inputs = F.normalize(tokens, dim=-1) @ self._matrix(self.of_token).T
        carry = self._matrix(self.carry).T
        state = torch.tanh(F.normalize(prompts, dim=-1) @ self._matrix(self.of_prompt).T)
        for t in range(tokens.shape[1]):
            after = torch.tanh(state @ carry + inputs[:, t])
            state = torch.where((t < lengths)[:, None], after, state)
        return (state @ self._matrix(self.judge).T)[:, 0] + self.bias

    def _matrix(self, weight: Tensor) -> Tensor:
        return weight / torch.linalg.matrix_norm(weight, ord=2) if self._spectral_norm else weight


def discriminator_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """
    Args:
        labels: [N], 1 for gold, 0 for sampled
    """
    return F.binary_cross_entropy_with_logits(logits, labels)
