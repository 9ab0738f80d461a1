"""Weights for tokens that another implementation of the policy has sampled: truncated importance sampling.

An engine of its own samples from a distribution that differs from the update's by rounding and kernels. The weight
``min(cap, p / q)``, p the update's probability and q the engine's, makes the gradient that of p again, but for what the
cap takes away (Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training", 2025). It is a
constant: no gradient goes through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Importance:
    """See ``rollout.importance``."""

    per: Literal["token", "sequence"]
    cap: float

    def weights(self, log_probs: Tensor, kept: Tensor, lengths: Sequence[int]) -> Tensor:
        """Weights [M]; 1 for tokens behind the kept ones.

        Args:
            log_probs: [M] of the update
            kept: [K] of the engine, K <= M
            lengths: of the completions that the K tokens are
        """
        logs = log_probs[: len(kept)].detach() - kept
        if self.per == "sequence":
            places = torch.arange(len(lengths), device=logs.device)
            row = places.repeat_interleave(
                torch.tensor(lengths, dtype=torch.long, device=logs.device), output_size=len(logs)
            )
            logs = logs.new_zeros(len(lengths)).index_add(0, row, logs)[row]
        return F.pad(logs.exp().clamp(max=self.cap), (0, len(log_probs) - len(kept)), value=1.0)
