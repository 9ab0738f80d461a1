"""Gemma 3: every image at one size in 256 tokens that see each other, and windows in most layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from PIL.Image import Image
from torch import Tensor

from gpg_vl.config import ModelConfig
from gpg_vl.models.families.layer_masks import LayerMasksAdapter, Sight
from gpg_vl.records import Frame, ImageView, VisionInputs


class Gemma3Adapter(LayerMasksAdapter):
    image_token = "<image_soft_token>"
    placeholder = "<start_of_image>"
    vision_tokens = ("<start_of_image>", "<end_of_image>")
    part_prefixes = (("model.vision_tower.", "vision"), ("model.multi_modal_projector.", "projector"))
    lora_layers: ClassVar[Mapping[str, str]] = {
        "text": r"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj",
        "vision": r"model\.vision_tower\.(vision_model\.)?encoder\.layers\.\d+\."
        r"(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])",
    }

    def __init__(self, model: Any, processor: Any, config: ModelConfig, frame: Frame | None):
        if processor.image_processor.do_pan_and_scan:
            raise ValueError(
                f"model.path: the image processor of {config.path} cuts images into crops; set do_pan_and_scan to "
                "false in its preprocessor_config.json"
            )
        super().__init__(model, processor, config, frame)

    # --- reading ---

    @property
    def plain_start(self) -> str:  # type: ignore[override]
        return str(self.tokenizer.bos_token)

    def view(self, width: int, height: int, max_tokens: int | None = None) -> ImageView:
        """See ``Adapter.view``: one size for every image, whatever the pixel limits."""
        size = self.processor.image_processor.size
        return ImageView(width, height, size["width"], size["height"], self.frame)

    def image_texts(self, views: Sequence[ImageView]) -> list[str]:
        return [self.processor.full_image_sequence] * len(views)

    def _encode_vision(self, images: Sequence[Image], views: Sequence[ImageView]) -> VisionInputs:
        """``pixel_values`` [N, 3, height, width]."""
        pixels = self.processor.image_processor(images=list(images), return_tensors="pt")["pixel_values"]
        patch = self.model.config.vision_config.patch_size
        num_patches = len(pixels) * (pixels.shape[-2] // patch) * (pixels.shape[-1] // patch)
        return VisionInputs({"pixel_values": pixels}, num_patches, len(pixels) * self.processor.image_seq_length)

    # --- running ---

    def layer_masks(self, sight: Sight) -> dict[str, Tensor]:
        """A token sees the earlier ones and the whole of its image; in most layers, only those of the window."""
        seen = sight.earlier | sight.same_image()
        window = self.model.config.text_config.sliding_window
        return {"full_attention": seen, "sliding_attention": seen & sight.within(window)}

    def _plain_arguments(self, ids: Tensor, token_types: Tensor, vision: Mapping[str, Tensor]) -> dict[str, Any]:
        return {"token_type_ids": token_types, **vision}
