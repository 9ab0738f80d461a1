"""Whether an engine of its own still computes what the update does: a bound on the distance of their log-probs.

The engine ``hf`` runs the very model, and the self-check compares its forwards. Another engine has code of its own: a
difference beyond rounding trains a distribution that was never sampled from, so the run ends. What it samples first is
compared when it does (``rollout.served.parity``).
"""

from __future__ import annotations

import math

from gpg_vl.config import Recipe
from gpg_vl.rollout.served.parity import MAX_GAP
from gpg_vl.update.gradient import UpdateError


def check_gap(recipe: Recipe, mean: float | None, largest: float | None) -> None:
    """
    Args:
        mean, largest: distances over the step's tokens, the same on all ranks; None where they are not known

    Raises:
        UpdateError: they exceed the bound of an engine that is not ``hf``
    """
    rollout = recipe.rollout
    is_truncated = rollout.top_p < 1 or rollout.top_k > 0  # the update's log-probs are of another distribution then
    if rollout.engine == "hf" or is_truncated or mean is None or largest is None:
        return
    dtype = recipe.model.dtype
    what, found = ("largest", largest) if dtype == "float32" else ("mean", mean)
    bound = rollout.vllm.max_gap or MAX_GAP[dtype]
    if not found <= bound:
        shown = found if math.isfinite(found) else "not finite"
        raise UpdateError(
            f"the {what} distance between the log-probs of rollout.engine: {rollout.engine} and the update is "
            f"{shown} nats, more than {bound}; set rollout.engine to hf, or raise rollout.vllm.max_gap"
        )
