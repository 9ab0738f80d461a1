"""Qwen3-VL and its mixture of experts: the features of an image enter the text model at several depths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from gpg_vl.models.families.qwen_video import TimedVideoAdapter
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.records import ImageFeatures


class Qwen3VLAdapter(TimedVideoAdapter):
    part_prefixes = (
        ("model.visual.merger.", "projector"),
        ("model.visual.deepstack_merger_list.", "projector"),
        ("model.visual.", "vision"),
    )
    lora_layers: ClassVar[Mapping[str, str]] = {
        **QwenVLAdapter.lora_layers,
        "vision": r"model\.visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.linear_fc[12])",
    }

    def _features(self, found: Any) -> ImageFeatures:
        """Those for the input embeddings, then those that are added after each of the first layers."""
        return ImageFeatures((torch.cat(found.pooler_output), *map(_whole, found.deepstack_features)))

    def _embed(self, input_ids: Tensor, token_types: Tensor, features: ImageFeatures) -> dict[str, Any]:
        embedded = super()._embed(input_ids, token_types, features)
        deeper = [level.to(embedded["inputs_embeds"].dtype) for level in features.levels[1:]]
        return {**embedded, "visual_pos_masks": token_types.bool(), "deepstack_visual_embeds": deeper}


def _whole(level: Any) -> Tensor:
    """One depth for all images; transformers 5.17 gives a tensor, later versions one for each image."""
    return level if isinstance(level, Tensor) else torch.cat(level)
