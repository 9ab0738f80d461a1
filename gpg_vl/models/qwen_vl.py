"""Qwen2-VL and Qwen2.5-VL: images of any size as patches, M-RoPE positions on three axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL.Image import Image
from qwen_vl_utils import smart_resize
from torch import Tensor

from gpg_vl.models.base import BaseAdapter
from gpg_vl.records import Encoded, ImageFeatures, ImageView, VisionInputs


class QwenVLAdapter(BaseAdapter):
    """A Qwen2-VL or Qwen2.5-VL model with its processor."""

    image_token = "<|image_pad|>"
    part_prefixes = (("model.visual.merger.", "projector"), ("model.visual.", "vision"))
    lora_layers: ClassVar[Mapping[str, str]] = {
        "text": r"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj",
        "vision": r"model\.visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(fc1|fc2|(gate|up|down)_proj))",
    }

    # --- reading ---

    def render_plain(self, parts: Sequence[str | None]) -> str:
        placeholder = f"<|vision_start|>{self.image_token}<|vision_end|>"
        return "".join(placeholder if part is None else part for part in parts)

    @property
    def _resize_factor(self) -> int:
        vision = self.model.config.vision_config
        return int(vision.patch_size * vision.spatial_merge_size)

    def view(self, width: int, height: int, max_tokens: int | None = None) -> ImageView:
        """See ``Adapter.view``. ``max_tokens`` never shrinks an image below model.min_pixels or one token per side."""
        c, factor = self.config, self._resize_factor
        max_pixels = c.max_pixels if max_tokens is None else min(c.max_pixels, max_tokens * factor**2)
        model_height, model_width = smart_resize(height, width, factor, c.min_pixels, max(c.min_pixels, max_pixels))
        if max_tokens is not None:
            model_height, model_width = max(factor, model_height), max(factor, model_width)
        if min(model_height, model_width) < factor:
            raise ValueError(f"a {width} x {height} image has no tokens with model.max_pixels={c.max_pixels}; raise it")
        return ImageView(width, height, model_width, model_height, self.frame)

    def count_image_tokens(self, views: Sequence[ImageView]) -> list[int]:
        return [view.model_width * view.model_height // self._resize_factor**2 for view in views]

    def encode(self, text: str, images: Sequence[Image], views: Sequence[ImageView]) -> Encoded:
        """See ``Adapter.encode``: ``pixel_values`` [K, D] for K patches, ``image_grid_thw`` [N, 3], A = 3 axes."""
        vision = self._encode_vision(images, views) if images else None
        token_ids, token_types = self._expand(self._token_ids(text), views)
        position_ids, _ = self.model.model.get_rope_index(
            torch.tensor([token_ids]),
            torch.tensor([token_types]),
            image_grid_thw=None if vision is None else vision.tensors["image_grid_thw"],
        )
        return Encoded(token_ids, token_types, position_ids[:, 0], int(position_ids.max()) + 1, vision)

    def _encode_vision(self, images: Sequence[Image], views: Sequence[ImageView]) -> VisionInputs:
        sized = [i.resize((v.model_width, v.model_height)) for i, v in zip(images, views, strict=True)]
        vision = self.processor.image_processor(images=sized, do_resize=False, return_tensors="pt")
        tensors = {name: vision[name] for name in ("pixel_values", "image_grid_thw")}
        return VisionInputs(tensors, len(tensors["pixel_values"]), sum(self.count_image_tokens(views)))

    def _expand(self, ids: list[int], views: Sequence[ImageView]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Token ids and types, each image placeholder repeated once per token of its image."""
        image_token = self.model.config.image_token_id
        counts = self.count_image_tokens(views)
        placeholders = ids.count(image_token)
        assert placeholders == len(counts), f"{placeholders} placeholders for {len(counts)} images"
        remaining = iter(counts)
        token_ids: list[int] = []
        for token in ids:
            token_ids.extend([token] * (next(remaining) if token == image_token else 1))
        return tuple(token_ids), tuple(int(token == image_token) for token in token_ids)

    # --- tokens ---

    @property
    def banned_token_ids(self) -> tuple[int, ...]:
        """Vision tokens: with one in a completion, the next forward would expect an image that does not exist."""
        config = self.model.config
        ids = {config.vision_start_token_id, config.vision_end_token_id, config.image_token_id, config.video_token_id}
        ids.add(self.tokenizer.convert_tokens_to_ids("<|vision_pad|>"))
        return tuple(sorted(i for i in ids if i is not None and i not in self.end_token_ids))

    # --- running ---

    def _forward_arguments(self, token_types: Tensor, vision: VisionInputs | None) -> dict[str, Any]:
        return {"mm_token_type_ids": token_types, **super()._forward_arguments(token_types, vision)}

    def _plain_arguments(self, ids: Tensor, token_types: Tensor, vision: Mapping[str, Tensor]) -> dict[str, Any]:
        position_ids, _ = self.model.model.get_rope_index(ids, token_types, image_grid_thw=vision.get("image_grid_thw"))
        return {"mm_token_type_ids": token_types, "position_ids": position_ids, **vision}

    def save(self, folder: Path) -> None:
        """See ``Adapter.save``: with the run's pixel limits, which the kit applies itself."""
        limits = {"shortest_edge": self.config.min_pixels, "longest_edge": self.config.max_pixels}
        self.processor.image_processor.size = limits
        super().save(folder)

    def encode_images(self, vision: VisionInputs) -> ImageFeatures:
        return ImageFeatures((torch.cat(self.model.model.get_image_features(**vision.tensors).pooler_output),))
