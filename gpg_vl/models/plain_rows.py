"""Log-probs of a completion by the model's own code: what every shortcut of the kit is compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from gpg_vl.models.adapter import Adapter
from gpg_vl.models.log_probs import token_log_probs
from gpg_vl.records import Completion, Encoded


def plain_log_probs(adapter: Adapter, encoded: Encoded, completion: Completion, temperature: float) -> Tensor:
    """Log-probs [T] of one completion after its prompt, as one ordinary row: nothing shared, no mask of our own."""
    hidden = adapter.run_plain(encoded, completion.token_ids)
    sources = hidden[len(encoded.token_ids) - 1 : -1]
    targets = torch.tensor(completion.token_ids, device=adapter.device)
    return token_log_probs(
        sources, adapter.head_weight, targets, temperature, adapter.banned_token_ids, adapter.logit_cap
    )
