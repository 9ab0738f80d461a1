"""Groups -> the floating-point operations that a step on them cannot do without: what an MFU counts.

Two for each weight that a token or a patch is multiplied with, and as many again for each of the two gradients that the
backward pass computes there. A prompt and its images count once per group, whoever computes them more often. Left out:
the products of attention, norms, the optimizer, and everything of a mixture of experts, whose tokens pass some weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from gpg_vl.models.adapter import Adapter
from gpg_vl.models.weights.four_bit import four_bit_weights
from gpg_vl.records import ScoredGroup, TrainingGroup, count_tokens

_ORDER = ("vision", "projector", "text", "head")
"""In which the forward passes them."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights in products, by part of the model; the head counts beside the text."""

    all: dict[str, int]
    trained: dict[str, int]
    has_frozen_tower: bool  # whether images are encoded in the rollout alone


def count_weights(adapter: Adapter) -> Weights | None:
    """None for a mixture of experts. Call it before weights are sharded."""
    everything: Counter[str] = Counter()
    trained: Counter[str] = Counter()
    head = adapter.head_weight
    in_four_bits = {name: layer.num_weights for name, layer in four_bit_weights(adapter.model)}
    for name, weight in _in_products(adapter.model):
        if ".experts." in name:
            return None
        part = "head" if weight is head else adapter.part_of(name)
        everything[part] += in_four_bits.get(name, weight.numel())
        trained[part] += weight.numel() * weight.requires_grad
    everything["head"], trained["head"] = head.numel(), head.numel() * head.requires_grad  # also where it is tied
    return Weights(dict(everything), dict(trained), adapter.has_frozen_tower())


def _in_products(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Not norms, biases and tables that are looked up."""
    for prefix, module in model.named_modules():
        if not isinstance(module, nn.Embedding):
            for name, weight in module.named_parameters(recurse=False):
                if weight.dim() > 1:
                    yield f"{prefix}.{name}", weight


def rollout_flops(weights: Weights, groups: Sequence[ScoredGroup]) -> float:
    """Of sampling the groups."""
    return float(sum(2 * weights.all.get(part, 0) * count for part, count in _passes(groups).items()))


def update_flops(weights: Weights, groups: Sequence[TrainingGroup]) -> float:
    """Of the forward and the backward pass on the groups."""
    counts = _passes(groups)
    flops, is_behind_trained = 0, False
    for part in _ORDER[2 * weights.has_frozen_tower :]:
        size, trained = weights.all.get(part, 0), weights.trained.get(part, 0)
        is_behind_trained = is_behind_trained or trained > 0
        flops += 2 * counts[part] * (size + size * is_behind_trained + trained)
    return float(flops)


def _passes(groups: Sequence[ScoredGroup] | Sequence[TrainingGroup]) -> dict[str, int]:
    """How often each part is passed, by patches, image tokens, tokens and completion tokens."""
    encoded = [group.prompt.encoded for group in groups]
    vision = [each.vision for each in encoded if each.vision is not None]
    completed = sum(count_tokens(group.completions) for group in groups)
    return {
        "vision": sum(each.num_patches for each in vision),
        "projector": sum(each.num_tokens for each in vision),
        "text": sum(len(each.token_ids) for each in encoded) + completed,
        "head": completed,
    }
