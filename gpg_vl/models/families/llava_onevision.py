"""LLaVA-OneVision: an image alone is cut into tiles, several are one tile each; positions have one axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from PIL.Image import Image
from transformers.image_processing_utils import select_best_resolution

from gpg_vl.models.base import BaseAdapter
from gpg_vl.records import ImageView, VisionInputs


class LlavaOnevisionAdapter(BaseAdapter):
    image_token = "<image>"
    vision_tokens = ("<video>",)
    has_tiles = True
    part_prefixes = (
        ("model.vision_tower.", "vision"),
        ("model.multi_modal_projector.", "projector"),
        ("model.image_newline", "projector"),
    )
    lora_layers: ClassVar[Mapping[str, str]] = {
        "text": r"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj",
        "vision": r"model\.vision_tower\.encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])",
    }

    def __init__(self, *args: Any) -> None:
        """Takes the grids of more tiles than the recipe allows out of the processor's choice and the model's."""
        super().__init__(*args)
        tile = min(self.processor.image_processor.size[side] for side in ("height", "width"))
        most = self.config.max_tiles or max(1, self.config.max_pixels // tile**2)
        grids = self.processor.image_processor.image_grid_pinpoints
        self._base_grids = self.model.config.image_grid_pinpoints
        kept = [grid for grid in grids if grid[0] * grid[1] <= most * tile**2] or [[tile, tile]]
        self.processor.image_processor.image_grid_pinpoints = self.model.config.image_grid_pinpoints = kept

    # --- reading ---

    def view(self, width: int, height: int, max_tokens: int | None = None) -> ImageView:
        """The image as it is; smaller where that takes it below ``max_tokens``, but not below model.min_pixels."""
        pixels = width * height
        while True:
            scale = (pixels / (width * height)) ** 0.5
            view = ImageView(width, height, max(1, round(width * scale)), max(1, round(height * scale)), self.frame)
            too_small = pixels <= self.config.min_pixels
            if max_tokens is None or too_small or sum(self.count_image_tokens([view])) <= max_tokens:
                return view
            pixels = max(self.config.min_pixels, int(pixels * 0.9))

    def count_image_tokens(self, views: Sequence[ImageView]) -> list[int]:
        if len(views) > 1:
            return [self.processor.num_image_tokens + 1] * len(views)  # one tile and the end of its line
        sizes = [(view.model_height, view.model_width) for view in views]
        return list(self.processor._get_num_multimodal_tokens(image_sizes=sizes).num_image_tokens)

    def image_texts(self, views: Sequence[ImageView]) -> list[str]:
        return [self.image_token * count for count in self.count_image_tokens(views)]

    def _encode_vision(self, images: Sequence[Image], views: Sequence[ImageView]) -> VisionInputs:
        """``pixel_values`` [N, tiles, 3, h, w], ``image_sizes`` [N, 2], ``batch_num_images`` [1]."""
        pictures = [_without_enlarging(*each) for each in zip(images, views, strict=True)]
        sizes = [(view.model_height, view.model_width) for view in views]
        grid = select_best_resolution(sizes[0], self.processor.image_processor.image_grid_pinpoints)
        tensors = dict(
            self.processor.image_processor(images=[pictures], image_grid_pinpoints=[list(grid)], return_tensors="pt")
        )
        tensors["image_sizes"] = torch.tensor(sizes)
        num_tiles = tensors["pixel_values"].shape[:2].numel()
        num_tokens = sum(self.count_image_tokens(views))
        return VisionInputs(tensors, num_tiles * self.processor.num_image_tokens, num_tokens)

    # --- running and saving ---

    def join_vision(self, parts: Sequence[VisionInputs]) -> VisionInputs:
        """Images of fewer tiles are padded with empty ones, which the model drops again by ``image_sizes``."""
        most = max(part.tensors["pixel_values"].shape[1] for part in parts)
        return super().join_vision([_with_tiles(part, most) for part in parts])

    def save_processor(self, folder: Path) -> None:
        """See ``Adapter.save_processor``. Beside a LoRA adapter, which other tools run in the base's config, it has the
        base's grids: a picture whose grid is another in the processor than in the config stops the model.
        """
        whole = copy(self.processor)
        if self._is_adapter:
            whole.image_processor = copy(self.processor.image_processor)
            whole.image_processor.image_grid_pinpoints = self._base_grids
        whole.save_pretrained(folder)


def _without_enlarging(image: Image, view: ImageView) -> Image:
    """In the size of the view; one that was opened at a part of its file's size stays small."""
    size = (view.model_width, view.model_height)
    return image if prod(size) >= prod(image.size) else image.resize(size)


def _with_tiles(vision: VisionInputs, num: int) -> VisionInputs:
    pixels = vision.tensors["pixel_values"]
    padded = F.pad(pixels, (0, 0, 0, 0, 0, 0, 0, num - pixels.shape[1]))
    return replace(vision, tensors={**vision.tensors, "pixel_values": padded})
