"""Log-probs of given tokens from hidden states, without ever storing the whole [M, V] logits.

The head runs over chunks of tokens in float32; each chunk is recomputed in the backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

LOGITS_PER_CHUNK = 2**24
"""Number of logits in one chunk: 64 MiB in float32."""


def mask_banned(logits: Tensor, banned_token_ids: Sequence[int]) -> Tensor:
    """Logits [..., V] with the banned tokens at minus infinity: sampler and update share this distribution."""
    below = [token for token in banned_token_ids if token < logits.shape[-1]]  # a head may have fewer rows than tokens
    if not below:
        return logits
    banned = torch.tensor(below, device=logits.device)
    return logits.index_fill(-1, banned, -torch.inf)


def token_log_probs(
    hidden: Tensor,
    head_weight: Tensor,
    target_ids: Tensor,
    temperature: float,
    banned_token_ids: Sequence[int],
) -> Tensor:
    """Log-prob of each target under the distribution that the rollout samples from.

    Args:
        hidden: [M, H] hidden states from which the targets are predicted
        head_weight: [V, H]
        target_ids: [M]
        temperature: divides the logits
        banned_token_ids: tokens with probability zero

    Returns:
        [M] float32
    """

    def score(hidden_chunk: Tensor, target_chunk: Tensor) -> Tensor:
        with torch.autocast(hidden_chunk.device.type, enabled=False):
            logits = F.linear(hidden_chunk.float(), head_weight.float()) / temperature
        logits = mask_banned(logits, banned_token_ids)
        chosen = logits.gather(-1, target_chunk[:, None])[:, 0]
        return chosen - torch.logsumexp(logits, dim=-1)

    rows = max(1, LOGITS_PER_CHUNK // head_weight.shape[0])
    chunks = zip(hidden.split(rows), target_ids.split(rows), strict=True)
    return torch.cat([checkpoint(score, h, t, use_reentrant=False, preserve_rng_state=False) for h, t in chunks])
