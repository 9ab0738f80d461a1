"""LFM2-VL: short convolutions between few layers of attention; large images in tiles of one size, and whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import ceil
from typing import Any, ClassVar

import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor

from gpg_vl.models.families.recurrent import RecurrentAdapter
from gpg_vl.models.families.sliced import Limits, SlicedAdapter, Tiling
from gpg_vl.records import VisionInputs

_SIDES = range(1, 11)


class Lfm2VLAdapter(RecurrentAdapter, SlicedAdapter):
    image_token = "<image>"
    vision_tokens = (
        "<|image_start|>",
        "<|image_end|>",
        "<|img_thumbnail|>",
        *(f"<|img_row_{row}_col_{column}|>" for row in _SIDES for column in _SIDES),
    )
    part_prefixes = (("model.vision_tower.", "vision"), ("model.multi_modal_projector.", "projector"))
    lora_layers: ClassVar[Mapping[str, str]] = {
        "text": (
            r"model\.language_model\.layers\.\d+\."
            r"(self_attn\.(q_proj|k_proj|v_proj|out_proj)|conv\.(in|out)_proj|feed_forward\.w[123])"
        ),
        "vision": r"model\.vision_tower\.encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])",
    }
    recurrent_type = "conv"
    recurrent_module = "conv"

    # --- reading ---

    def _limits(self) -> Iterator[Limits]:
        own, config = self.processor.image_processor, self.config
        pixels = (own.encoder_patch_size * own.downsample_factor) ** 2  # of a token
        most = max(1, min(own.max_image_tokens, config.max_pixels // pixels))
        least = min(most, max(own.min_image_tokens, ceil(config.min_pixels / pixels)))
        most_tiles = self._most_tiles(own.tile_size, own.max_tiles if own.do_image_splitting else 1)
        for tiles in range(most_tiles, max(2, own.min_tiles) - 1, -1):
            yield _limit(least, most, max_tiles=tiles, do_image_splitting=True)
        for tokens in range(most, 0, -1):
            yield _limit(min(least, tokens), tokens, max_tiles=own.max_tiles, do_image_splitting=False)

    def _tiling(self, width: int, height: int, limits: Limits) -> Tiling | None:
        own = self.processor.image_processor
        units = {"downsample_factor": own.downsample_factor, "encoder_patch_size": own.encoder_patch_size}
        most = limits["max_image_tokens"]
        whole = own.smart_resize(
            height, width, min_image_tokens=limits["min_image_tokens"], max_image_tokens=most, **units
        )
        side = own.downsample_factor * own.encoder_patch_size
        if whole[0] * whole[1] > most * side**2:
            return None  # one token high or wide, and still too long
        is_large = own._is_image_too_large(
            height, width, max_image_tokens=most, max_pixels_tolerance=own.max_pixels_tolerance, **units
        )
        if not (is_large and limits["do_image_splitting"]):
            return Tiling(whole)
        columns, rows, *_ = own._get_grid_layout(height, width, own.min_tiles, limits["max_tiles"], own.tile_size)
        return Tiling(whole, columns, rows, (own.tile_size, own.tile_size))

    def _image_text(self, tiling: Tiling, index: int) -> str:
        width, height = tiling.whole
        found = {"image_rows": [tiling.rows], "image_cols": [tiling.columns], "image_sizes": [[height, width]]}
        text: str = self.processor.replace_image_token(found, 0, use_image_special_tokens=True)
        return text

    def _answers(self, tiling: Tiling) -> dict[str, Any]:
        (columns, rows), (width, height) = (tiling.columns, tiling.rows), tiling.size
        layout = (columns, rows, width, height, columns * rows)
        return {"smart_resize": tiling.whole, "_is_image_too_large": tiling.is_cut, "_get_grid_layout": layout}

    def _process(self, processor: Any, image: Image, limits: Limits, num_tokens: int) -> VisionInputs:
        """``pixel_values`` [tiles, patches, D], ``pixel_attention_mask`` [tiles, patches], ``spatial_shapes``."""
        found = processor(images=[image], return_tensors="pt", **limits)
        names = ("pixel_values", "pixel_attention_mask", "spatial_shapes")
        return VisionInputs({name: found[name] for name in names}, found["pixel_values"][..., 0].numel(), num_tokens)

    # --- running ---

    def join_vision(self, parts: Sequence[VisionInputs]) -> VisionInputs:
        """Tiles of fewer patches are padded with empty ones, which the mask leaves out."""
        most = max(part.tensors["pixel_values"].shape[1] for part in parts)
        return super().join_vision([_with_patches(part, most) for part in parts])


def _limit(least: int, most: int, **more: int) -> Limits:
    return {"min_image_tokens": least, "max_image_tokens": most, **more}


def _with_patches(vision: VisionInputs, num: int) -> VisionInputs:
    def padded(tensor: Tensor) -> Tensor:
        """[tiles, num, ...]"""
        return F.pad(tensor, (0, 0) * (tensor.dim() - 2) + (0, num - tensor.shape[1]))

    tensors = vision.tensors
    both = {name: padded(tensors[name]) for name in ("pixel_values", "pixel_attention_mask")}
    return replace(vision, tensors={**tensors, **both})
