"""Mistral 3 with Pixtral's eye: an image of any size, its rows of tokens separated; positions have one axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil, floor, isqrt
from pathlib import Path
from typing import Any, ClassVar

import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from gpg_vl.config import ModelConfig
from gpg_vl.models.base import BaseAdapter
from gpg_vl.models.inputs.images_to_tensors import resized
from gpg_vl.records import Frame, ImageView, VisionInputs


class Mistral3Adapter(BaseAdapter):
    image_token = "[IMG]"
    vision_tokens = ("[IMG_BREAK]", "[IMG_END]")
    part_prefixes = (("model.vision_tower.", "vision"), ("model.multi_modal_projector.", "projector"))
    lora_layers: ClassVar[Mapping[str, str]] = {
        "text": r"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj",
        "vision": r"model\.vision_tower\.transformer\.layers\.\d+\."
        r"(attention\.[qkvo]_proj|feed_forward\.(gate|up|down)_proj)",
    }

    @staticmethod
    def refuse_inexact(config: PreTrainedConfig) -> None:
        """See ``BaseAdapter.refuse_inexact``; this text model names its window alone."""
        BaseAdapter.refuse_inexact(config)
        text: Any = config.get_text_config()
        if text.sliding_window is not None:
            raise ValueError("model.path: the config uses a sliding window; set sliding_window to null in it")

    # --- reading ---

    @property
    def _side(self) -> int:
        """Pixels of an image token's side."""
        return int(self.processor.patch_size * self.processor.spatial_merge_size)

    @property
    def _longest_edge(self) -> int:
        """A square image then has at most ``model.max_pixels``; the processor knows no other limit."""
        return int(min(self.processor.image_processor.size["longest_edge"], isqrt(self.config.max_pixels)))

    def view(self, width: int, height: int, max_tokens: int | None = None) -> ImageView:
        """See ``Adapter.view``: never enlarged, but for whole image tokens."""
        side, edge = self._side, self._longest_edge
        while True:
            scale = max(1.0, width / edge, height / edge)
            columns, rows = (max(1, ceil(floor(pixels / scale) / side)) for pixels in (width, height))
            view = ImageView(width, height, columns * side, rows * side, self.frame)
            if max_tokens is None or edge <= side or self.count_image_tokens([view])[0] <= max_tokens:
                return view
            edge = max(side, edge - side)

    def count_image_tokens(self, views: Sequence[ImageView]) -> list[int]:
        """With the separator at the end of each row."""
        return [(view.model_width // self._side + 1) * (view.model_height // self._side) for view in views]

    def image_texts(self, views: Sequence[ImageView]) -> list[str]:
        sizes = {"image_sizes": [(view.model_height, view.model_width) for view in views]}
        return [self.processor.replace_image_token(sizes, index) for index in range(len(views))]

    def _encode_vision(self, images: Sequence[Image], views: Sequence[ImageView]) -> VisionInputs:
        """``pixel_values`` [N, 3, h, w], smaller images padded, ``image_sizes`` [N, 2]."""
        vision = self.processor.image_processor(images=resized(images, views), do_resize=False, return_tensors="pt")
        tensors = {name: vision[name] for name in ("pixel_values", "image_sizes")}
        pixels = sum(view.model_width * view.model_height for view in views)
        return VisionInputs(tensors, pixels // self.processor.patch_size**2, pixels // self._side**2)

    # --- running and saving ---

    def __init__(self, model: PreTrainedModel, processor: Any, config: ModelConfig, frame: Frame | None):
        super().__init__(model, processor, config, frame)
        self.model.model.multi_modal_projector.register_forward_hook(_keep_axis_of_tokens)

    def join_vision(self, parts: Sequence[VisionInputs]) -> VisionInputs:
        """Images are padded to one size, which the model cuts off again by ``image_sizes``."""
        height, width = (max(part.tensors["pixel_values"].shape[axis] for part in parts) for axis in (-2, -1))
        return super().join_vision([_padded(part, height, width) for part in parts])

    def save(self, folder: Path) -> None:
        """See ``Adapter.save``: with the run's limit, which the kit applies itself."""
        self.processor.image_processor.size = {"longest_edge": self._longest_edge}
        super().save(folder)


def _keep_axis_of_tokens(_projector: nn.Module, _inputs: Any, features: Tensor) -> Tensor:
    """transformers takes the first axis away of length 1, which is that of the tokens if there is only one."""
    return features[None] if len(features) == 1 else features


def _padded(vision: VisionInputs, height: int, width: int) -> VisionInputs:
    pixels: Tensor = vision.tensors["pixel_values"]
    padded = F.pad(pixels, (0, width - pixels.shape[-1], 0, height - pixels.shape[-2]))
    return replace(vision, tensors={**vision.tensors, "pixel_values": padded})
