"""Log-probs of given tokens from hidden states, without ever storing the whole [M, V] logits.

The head runs over chunks of tokens in float32; each chunk is recomputed in the backward pass, which adds the head's
gradient to one matrix in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LOGITS_PER_CHUNK = {"cpu": 2**24, "cuda": 2**27, "meta": 2**27}
"""Number of logits in one chunk: 64 MiB in float32, and on a GPU, where each chunk reads the head again, 512 MiB."""


def head_logits(hidden: Tensor, head_weight: Tensor, cap: float | None) -> Tensor:
    """The head's logits [..., V] in float32, capped at c * tanh(logit / c) where the model has a cap c."""
    kind = "cpu" if hidden.is_meta else hidden.device.type  # shapes without values, as gpg-vl plan runs them
    with torch.autocast(kind, enabled=False):
        logits = F.linear(hidden.float(), head_weight.float())
    return logits if cap is None else torch.tanh(logits / cap) * cap


def mask_banned(logits: Tensor, banned_token_ids: Sequence[int], *, in_place: bool = False) -> Tensor:
    """Logits [..., V] with the banned tokens at minus infinity: sampler and update share this distribution."""
    banned = banned_places(banned_token_ids, logits.shape[-1], logits.device)
    if banned is None:
        return logits
    return logits.index_fill_(-1, banned, -torch.inf) if in_place else logits.index_fill(-1, banned, -torch.inf)


def banned_places(banned_token_ids: Sequence[int], num_logits: int, device: torch.device) -> Tensor | None:
    """Where banned tokens are among the logits; None if there are none. A head may have fewer rows than tokens."""
    below = [token for token in banned_token_ids if token < num_logits]
    return torch.tensor(below, device=device) if below else None


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
    score = _Score(temperature, tuple(banned_token_ids), logit_cap)
    log_probs: Tensor = _Head.apply(hidden, head_weight.float(), target_ids, score)
    return log_probs


@dataclass(frozen=True, slots=True)
class _Score:
    """How a token's log-prob follows from the product [C, V] of states and head."""

    temperature: float
    banned_token_ids: Sequence[int]
    logit_cap: float | None

    def log_probs(self, hidden: Tensor, head: Tensor, target_ids: Tensor) -> Tensor:
        logits = self._finish(head_logits(hidden, head, self.logit_cap))
        return logits.gather(-1, target_ids[:, None])[:, 0] - torch.logsumexp(logits, dim=-1)

    def product_gradient(self, hidden: Tensor, head: Tensor, target_ids: Tensor, gradient: Tensor) -> Tensor:
        """[C, V]: of the log-probs, times ``gradient`` [C]."""
        capped = head_logits(hidden, head, self.logit_cap)
        slope: Any = 1.0 if self.logit_cap is None else 1 - (capped / self.logit_cap) ** 2
        logits = self._finish(capped)
        # exp(x - logsumexp), not softmax: the sum is the forward's, to the last bit
        found = logits.sub_(torch.logsumexp(logits, dim=-1, keepdim=True)).exp_().mul_(-gradient[:, None])
        found.scatter_add_(-1, target_ids[:, None], gradient[:, None])
        return found.mul_(slope).div_(self.temperature)

    def _finish(self, capped: Tensor) -> Tensor:
        """In place: a chunk is large."""
        return mask_banned(capped.div_(self.temperature), self.banned_token_ids, in_place=True)


class _Head(torch.autograd.Function):
    """Log-probs [M] of targets, chunk by chunk."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, target_ids: Tensor, score: _Score) -> Tensor:
        ctx.save_for_backward(hidden, head, target_ids)
        ctx.score = score
        parts = [score.log_probs(hidden[rows], head, target_ids[rows]) for rows in _chunks(hidden, head)]
        return torch.cat(parts) if parts else hidden.new_empty(0, dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, head, target_ids = ctx.saved_tensors
        of_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        of_head = torch.zeros_like(head) if ctx.needs_input_grad[1] else None
        for rows in _chunks(hidden, head):
            of_product = ctx.score.product_gradient(hidden[rows], head, target_ids[rows], gradient[rows])
            if of_hidden is not None:
                of_hidden[rows] = of_product @ head
            if of_head is not None:
                # not addmm_, which torch's counter of operations does not know
                torch.addmm(of_head, of_product.t(), hidden[rows].float(), out=of_head)
        return of_hidden, of_head, None, None


def _chunks(hidden: Tensor, head: Tensor) -> Iterator[slice]:
    num = max(1, LOGITS_PER_CHUNK[hidden.device.type] // head.shape[0])
    return (slice(start, start + num) for start in range(0, len(hidden), num))
