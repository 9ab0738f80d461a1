"""Mistakes in the masks of families that have their own; packed rows are then no longer plain ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gpg_vl.models.families import layer_masks
from gpg_vl.models.families.layer_masks import LayerMasksAdapter, Sight


def mask_mutations(adapter: type[LayerMasksAdapter]) -> dict[str, Callable[[Any], None]]:
    """By name; each gets a monkeypatch."""
    right = adapter.layer_masks

    def swap(self: LayerMasksAdapter, sight: Sight) -> dict[str, Tensor]:
        masks = right(self, sight)
        assert isinstance(masks, dict)
        return {"full_attention": masks["sliding_attention"], "sliding_attention": masks["full_attention"]}

    def count_in_packed_row(token_types: Tensor, position_ids: Tensor, segment_ids: Tensor) -> Sight:
        places = torch.arange(token_types.shape[1]).expand_as(position_ids)
        return right_sight(token_types, places, segment_ids)

    right_sight = layer_masks.packed_sight
    return {
        "masks of the layer types swapped": lambda patch: patch.setattr(adapter, "layer_masks", swap),
        "window in the packed row": lambda patch: patch.setattr(layer_masks, "packed_sight", count_in_packed_row),
        "nothing sees a later token": see_no_later_token,
    }


def see_no_later_token(patch: Any) -> None:
    """Neither an image nor a prompt sees itself whole."""

    def none(self: Sight) -> Tensor:
        return torch.zeros_like(self.earlier)

    for name in ("same_image", "any_images", "same_prompt"):
        patch.setattr(Sight, name, none)


def count_patches_by_prompt(patch: Any) -> None:
    """The patches that a token pools are counted from the start of its own image."""
    from gpg_vl.models.base import BaseAdapter
    from gpg_vl.models.families.molmo2 import Molmo2Adapter

    patch.setattr(Molmo2Adapter, "join_vision", BaseAdapter.join_vision)


def no_cap(patch: Any) -> None:
    from gpg_vl.models.families.gemma4 import Gemma4Adapter
    from gpg_vl.models.families.paligemma import PaliGemmaAdapter

    for adapter in (Gemma4Adapter, PaliGemmaAdapter):
        patch.setattr(adapter, "logit_cap", None)
