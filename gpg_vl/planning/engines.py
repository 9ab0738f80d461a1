"""What a rollout takes of a training card where another engine than the kit's own samples (docs/rollout-engines.md)."""

from __future__ import annotations

from gpg_vl.config import Recipe, RolloutConfig
from gpg_vl.planning.cards import Card
from gpg_vl.planning.layouts import FLOAT, ROUNDED, Size


def engine_bytes(config: RolloutConfig, card: Card) -> int:
    """Of a training card, while the engine is awake."""
    is_here = config.samples_elsewhere and config.vllm.mode == "colocate"
    return int(config.vllm.gpu_memory * card.total) if is_here else 0


def engine_seconds(
    recipe: Recipe, size: Size, flops: float | None, card: Card, rate: float, num_ranks: int, disk: float
) -> float:
    """New weights, to servers through a shared folder; then each engine its part at once, on a card like the run's own.

    A decode step reads all weights. What the cache adds and what launches kernels are left out.

    Args:
        flops: of a training rank's part of the rollout
        disk: bytes per second
    """
    config = recipe.rollout
    weights = (ROUNDED if recipe.model.dtype == "bfloat16" else FLOAT) * size.weights
    is_here = config.vllm.mode == "colocate"
    computed = (flops or 0.0) * num_ranks / (num_ranks if is_here else len(config.vllm.servers)) / rate
    handed_over = 2 * weights / (card.bandwidth if is_here else disk)
    return handed_over + config.max_new_tokens * weights / card.bandwidth + computed
