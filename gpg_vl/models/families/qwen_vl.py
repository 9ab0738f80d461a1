"""Qwen2-VL and Qwen2.5-VL: images of any size as patches, M-RoPE positions on three axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL.Image import Image
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from gpg_vl.config import ModelConfig
from gpg_vl.models.base import BaseAdapter
from gpg_vl.models.inputs.images_to_tensors import resized
from gpg_vl.models.packed.vision_attention import choose_tower_attention
from gpg_vl.records import Frame, ImageFeatures, ImageView, VisionInputs


class QwenVLAdapter(BaseAdapter):
    """A Qwen2-VL or Qwen2.5-VL model with its processor."""

    image_token = "<|image_pad|>"
    takes_sized_images = True
    vision_tokens: ClassVar[tuple[str, ...]] = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|video_pad|>")
    part_prefixes: ClassVar[tuple[tuple[str, str], ...]] = (
        ("model.visual.merger.", "projector"),
        ("model.visual.", "vision"),
    )
    lora_layers: ClassVar[Mapping[str, str]] = {
        "text": r"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj",
        "vision": r"model\.visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(fc1|fc2|(gate|up|down)_proj))",
    }

    def __init__(self, model: PreTrainedModel, processor: Any, config: ModelConfig, frame: Frame | None):
        super().__init__(model, processor, config, frame)
        choose_tower_attention(model, config)

    # --- reading ---

    @property
    def plain_image(self) -> str:
        return f"<|vision_start|>{self.image_token}<|vision_end|>"

    @property
    def _resize_factor(self) -> int:
        vision = self.model.config.vision_config
        return int(vision.patch_size * vision.spatial_merge_size)

    def view(self, width: int, height: int, max_tokens: int | None = None) -> ImageView:
        """See ``Adapter.view``. ``max_tokens`` never shrinks an image below model.min_pixels or one token per side."""
        c, factor = self.config, self._resize_factor
        max_pixels = c.max_pixels if max_tokens is None else min(c.max_pixels, max_tokens * factor**2)
        model_height, model_width = self._image_size(width, height, max(c.min_pixels, max_pixels))
        largest = max(c.min_pixels, max_pixels)
        is_cut = max_tokens is None and min(width * height, model_width * model_height) > largest
        if is_cut and factor in (model_width, model_height):
            raise ValueError(f"a {width} x {height} image is too narrow for model.max_pixels={c.max_pixels}; raise it")
        return ImageView(width, height, model_width, model_height, self.frame, notation=self.notation)

    def _image_size(self, width: int, height: int, max_pixels: int) -> tuple[int, int]:
        """Height and width as the family's processor computes them. A side is a token at least, whatever the limit."""
        found: tuple[int, int] = smart_resize(height, width, self._resize_factor, self.config.min_pixels, max_pixels)
        return found

    def count_image_tokens(self, views: Sequence[ImageView]) -> list[int]:
        return [view.model_width * view.model_height // self._resize_factor**2 for view in views]

    def image_texts(self, views: Sequence[ImageView]) -> list[str]:
        return [self.image_token * count for count in self.count_image_tokens(views)]

    def _encode_vision(self, images: Sequence[Image], views: Sequence[ImageView]) -> VisionInputs:
        """``pixel_values`` [K, D] for K patches, ``image_grid_thw`` [N, 3]."""
        vision = self.processor.image_processor(images=resized(images, views), do_resize=False, return_tensors="pt")
        tensors = {name: vision[name] for name in ("pixel_values", "image_grid_thw")}
        return VisionInputs(tensors, len(tensors["pixel_values"]), sum(self.count_image_tokens(views)))

    def _positions(self, token_ids: Sequence[int], token_types: Sequence[int], vision: VisionInputs | None) -> Tensor:
        """On three axes: time, height and width."""
        grids = {} if vision is None else _grids(vision.tensors)
        ids, types = torch.tensor([token_ids]), torch.tensor([token_types])
        position_ids, _ = self.model.model.get_rope_index(ids, types, **grids)
        return position_ids[:, 0]  # type: ignore[no-any-return]

    # --- running ---

    def _forward_arguments(self, token_types: Tensor, vision: VisionInputs | None) -> dict[str, Any]:
        return {"mm_token_type_ids": token_types, **super()._forward_arguments(token_types, vision)}

    def _plain_arguments(self, ids: Tensor, token_types: Tensor, vision: Mapping[str, Tensor]) -> dict[str, Any]:
        position_ids, _ = self.model.model.get_rope_index(ids, token_types, **_grids(vision))
        return {"mm_token_type_ids": token_types, "position_ids": position_ids, **vision}

    def save(self, folder: Path) -> None:
        """See ``Adapter.save``: with the run's pixel limits, which the kit applies itself."""
        self.processor.image_processor.size = self._saved_limits()
        super().save(folder)

    def _saved_limits(self) -> dict[str, int]:
        """The run's limits in the processor's own words."""
        return {"shortest_edge": self.config.min_pixels, "longest_edge": self.config.max_pixels}

    def encode_images(self, vision: VisionInputs) -> ImageFeatures:
        return self._features(self.model.model.get_image_features(**vision.tensors))

    def _features(self, found: Any) -> ImageFeatures:
        """What the tower gives, for all images together."""
        return ImageFeatures((torch.cat(found.pooler_output),))


def _grids(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What decides positions."""
    names = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")
    return {name: tensors[name] for name in names if name in tensors}
