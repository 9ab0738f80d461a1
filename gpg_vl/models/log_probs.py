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


def head_logits(hidden: Tensor, head_weight: Tensor, cap: float | None) -> Tensor:
    """The head's logits [..., V] in float32, capped at c * tanh(logit / c) where the model has a cap c."""
    kind = "cpu" if hidden.is_meta else hidden.device.type  # shapes without values, as gpg-vl plan runs them
    with torch.autocast(kind, enabled=False):
        logits = F.linear(hidden.float(), head_weight.float())
    return logits if cap is None else torch.tanh(logits / cap) * cap


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
    logit_cap: float | None = None,
) -> Tensor:
    """Log-prob of each target under the distribution that the rollout samples from.

    Args:
        hidden: [M, H] hidden states from which the targets are predicted
        head_weight: [V, H]
        target_ids: [M]
        temperature: divides the logits
        banned_token_ids: tokens with probability zero
        logit_cap: see ``Adapter.logit_cap``

    Returns:
        [M] float32
    """

    head = head_weight.float()  # once, so that the gradients of all chunks add up in float32

    def score(hidden_chunk: Tensor, target_chunk: Tensor) -> Tensor:
        logits = head_logits(hidden_chunk, head, logit_cap) / temperature
        logits = mask_banned(logits, banned_token_ids)
        chosen = logits.gather(-1, target_chunk[:, None])[:, 0]
        return chosen - torch.logsumexp(logits, dim=-1)

    rows = max(1, LOGITS_PER_CHUNK // head_weight.shape[0])
    chunks = zip(hidden.split(rows), target_ids.split(rows), strict=True)
    return torch.cat([checkpoint(score, h, t, use_reentrant=False, preserve_rng_state=False) for h, t in chunks])
