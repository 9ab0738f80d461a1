"""A learned reward followed through relaxed samples, in place of the score function; experimental.

Forward, a token is the one that was sampled. Backward, it is ``softmax((log p + g) / temperature)``, where g is Gumbel
noise under which ``argmax(log p + g)`` is that token (straight-through Gumbel-softmax). So the reward's own derivative
by the token's embedding reaches the logits. The estimate is biased: the reward is followed as if it were linear between
tokens.

After "Model-Based Reparameterization Policy Gradient Methods" (arXiv 2310.19927): the variance of such gradients grows
exponentially with length, unless the layers that they run through are spectrally normalised.
"""

from __future__ import annotations

import torch
from torch import Tensor


def relax(log_probs: Tensor, token_ids: Tensor, temperature: float, generator: torch.Generator | None = None) -> Tensor:
    """One-hot rows [..., V] of the tokens, with the gradient of the relaxed ones.

    Args:
        log_probs: [..., V], under which the tokens were sampled
        token_ids: [...]
        temperature: of the relaxation; smaller is less biased and varies more
    """
    with torch.no_grad():
        noise = _noise_of(log_probs, token_ids, generator)
    soft = torch.softmax((log_probs + noise) / temperature, dim=-1)
    hard = torch.zeros_like(soft).scatter_(-1, token_ids[..., None], 1.0)
    return hard + soft - soft.detach()


def _noise_of(log_probs: Tensor, token_ids: Tensor, generator: torch.Generator | None) -> Tensor:
    """Gumbel noise [..., V] given that it sampled the tokens.

    The highest of all ``log p + g`` is a standard Gumbel, whichever token has it; the others are Gumbels below it.
    """
    draws = torch.empty_like(log_probs).exponential_(generator=generator)
    chosen = token_ids[..., None]
    highest = draws.gather(-1, chosen)
    perturbed = -torch.log(draws / log_probs.exp() + highest).scatter(-1, chosen, 0.0)
    perturbed = perturbed.scatter(-1, chosen, -highest.log())
    noise: Tensor = perturbed - log_probs
    return noise.masked_fill(log_probs == -torch.inf, 0.0)
