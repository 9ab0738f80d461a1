"""GLM-4.1V to GLM-4.6V: patches and positions as in Qwen2-VL, under names of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

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

    def _saved_limits(self) -> dict[str, int]:
        """This family's processor counts an image as two frames."""
        frames = int(self.processor.image_processor.temporal_patch_size)
        return {name: frames * pixels for name, pixels in super()._saved_limits().items()}
