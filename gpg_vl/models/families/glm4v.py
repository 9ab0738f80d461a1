"""GLM-4.1V to GLM-4.6V: patches and positions as in Qwen2-VL, under names of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from transformers.models.glm4v.image_processing_glm4v import smart_resize

from gpg_vl.models.families.qwen_vl import QwenVLAdapter


class Glm4vAdapter(QwenVLAdapter):
    image_token = "<|image|>"
    vision_tokens = (
        "<|begin_of_image|>",
        "<|end_of_image|>",
        "<|begin_of_video|>",
        "<|end_of_video|>",
        "<|video|>",
    )
    lora_layers: ClassVar[Mapping[str, str]] = {
        "text": r"model\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate_up|gate|up|down)_proj)",
        "vision": r"model\.visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(gate|up|down)_proj)",
    }

    @property
    def plain_image(self) -> str:
        return f"<|begin_of_image|>{self.image_token}<|end_of_image|>"

    def _image_size(self, width: int, height: int, max_pixels: int) -> tuple[int, int]:
        """As its processor computes them: an image narrower than a token is enlarged as a whole first."""
        found: tuple[int, int] = smart_resize(
            self._frames_per_image, height, width, self._frames_per_image, self._resize_factor,
            self._frames_per_image * self.config.min_pixels, self._frames_per_image * max_pixels,
        )  # fmt: skip
        return found

    @property
    def _frames_per_image(self) -> int:
        """This family's processor counts an image as two frames."""
        return int(self.processor.image_processor.temporal_patch_size)

    def _saved_limits(self) -> dict[str, int]:
        return {name: self._frames_per_image * pixels for name, pixels in super()._saved_limits().items()}
