"""Gemma 4: images in their own shape within a number of tokens, inputs for each layer, a cap on the logits.

Sound is left out: its tower is kept and saved as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from PIL.Image import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor, resize
from transformers import PreTrainedConfig
from transformers.image_utils import pil_torch_interpolation_mapping
from transformers.models.gemma4.image_processing_gemma4 import get_aspect_ratio_preserving_size

from gpg_vl.config import ModelConfig
from gpg_vl.models.families.layer_masks import LayerMasksAdapter, Sight
from gpg_vl.records import Frame, ImageFeatures, ImageView, VisionInputs

TOKENS_PER_IMAGE = (70, 140, 280, 560, 1120)
"""Limits on the tokens of an image that the image processor knows."""


class Gemma4Adapter(LayerMasksAdapter):
    image_token = "<|image|>"
    vision_tokens = ("<|image|>", "<|image>", "<image|>", "<|video|>", "<|audio|>", "<|audio>", "<audio|>")
    part_prefixes = (
        ("model.vision_tower.", "vision"),
        ("model.audio_tower.", "vision"),
        ("model.embed_vision.", "projector"),
        ("model.embed_audio.", "projector"),
    )
    lora_layers: ClassVar[Mapping[str, str]] = {
        "text": r"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj",
        "vision": r"model\.vision_tower\.encoder\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj\.linear",
    }

    def __init__(self, model: Any, processor: Any, config: ModelConfig, frame: Frame | None):
        super().__init__(model, processor, config, frame)
        for name, parameter in model.named_parameters():
            if name.startswith(("model.audio_tower.", "model.embed_audio.")):
                parameter.requires_grad = False

    @classmethod
    def refuse_inexact(cls, config: PreTrainedConfig) -> None:
        super().refuse_inexact(config)
        if config.get_text_config().use_bidirectional_attention == "all":
            raise ValueError(
                "model.path: with use_bidirectional_attention: all a token sees later ones, so the model writes no "
                "text; take another model"
            )

    # --- reading ---

    @property
    def plain_start(self) -> str:  # type: ignore[override]
        return str(self.tokenizer.bos_token)

    def view(self, width: int, height: int, max_tokens: int | None = None) -> ImageView:
        """See ``Adapter.view``: as large as the processor's limit on tokens allows, or a lower one within the limits.

        Small images are enlarged, whatever model.min_pixels is, and no limit is lower than 70 tokens.
        """
        most = self._tokens_per_image if max_tokens is None else min(self._tokens_per_image, max_tokens)
        model_height, model_width = self._size(width, height, _largest_limit(most))
        return ImageView(width, height, model_width, model_height, self.frame)

    @property
    def _tokens_per_image(self) -> int:
        """The limit on an image's tokens: the processor's, or a lower one that keeps to model.max_pixels."""
        images = self.processor.image_processor
        pixels_per_token = (images.patch_size * images.pooling_kernel_size) ** 2
        return _largest_limit(min(images.max_soft_tokens, self.config.max_pixels // pixels_per_token))

    def _size(self, width: int, height: int, limit: int) -> tuple[int, int]:
        """Height and width of an image of at most ``limit`` tokens."""
        images = self.processor.image_processor
        pooling = images.pooling_kernel_size
        return get_aspect_ratio_preserving_size(height, width, images.patch_size, limit * pooling**2, pooling)

    def image_texts(self, views: Sequence[ImageView]) -> list[str]:
        side = self.processor.image_processor.patch_size * self.processor.image_processor.pooling_kernel_size
        counts = [(view.model_width // side) * (view.model_height // side) for view in views]
        boi, eoi = self.processor.boi_token, self.processor.eoi_token
        return [f"{boi}{self.image_token * count}{eoi}" for count in counts]

    def _encode_vision(self, images: Sequence[Image], views: Sequence[ImageView]) -> VisionInputs:
        """``pixel_values`` [N, K, D] and ``image_position_ids`` [N, K, 2], padded to the K patches of the limit."""
        resample = pil_torch_interpolation_mapping[self.processor.image_processor.resample]
        sized = [
            resize(pil_to_tensor(image), [view.model_height, view.model_width], resample, antialias=True)
            for image, view in zip(images, views, strict=True)
        ]
        encoded = self.processor.image_processor(
            images=sized, do_resize=False, max_soft_tokens=self._tokens_per_image, return_tensors="pt"
        )
        tensors = {name: encoded[name] for name in ("pixel_values", "image_position_ids")}
        return VisionInputs(
            tensors, tensors["pixel_values"].shape[:2].numel(), int(sum(encoded["num_soft_tokens_per_image"]))
        )

    # --- running ---

    @property
    def logit_cap(self) -> float | None:
        cap: float | None = self.model.config.text_config.final_logit_softcapping
        return cap

    def layer_masks(self, sight: Sight) -> dict[str, Tensor]:
        """In the layers with a window a token sees the whole of its image too, except in the small models."""
        text = self.model.config.text_config
        sees_image = text.use_bidirectional_attention == "vision"
        seen = sight.earlier | sight.same_image() if sees_image else sight.earlier
        return {"full_attention": sight.earlier, "sliding_attention": seen & sight.within(text.sliding_window)}

    def _embed(self, input_ids: Tensor, token_types: Tensor, features: ImageFeatures) -> dict[str, Any]:
        """With the inputs of each layer, which have the pad token's in the places of an image."""
        text = self.model.config.text_config
        is_image = token_types.bool()
        ids = input_ids.masked_fill(is_image, text.pad_token_id)
        embedded = self.model.get_input_embeddings()(ids)
        places = is_image[..., None].expand_as(embedded)
        tokens = {"inputs_embeds": embedded.masked_scatter(places, features.levels[0].to(embedded.dtype))}
        if text.hidden_size_per_layer_input:
            tokens["per_layer_inputs"] = self._text_model.get_per_layer_inputs(ids, None)
        return tokens

    def _plain_arguments(self, ids: Tensor, token_types: Tensor, vision: Mapping[str, Tensor]) -> dict[str, Any]:
        return {"mm_token_type_ids": token_types, **vision}

    def save(self, folder: Path) -> None:
        """See ``Adapter.save``: with the run's limit on an image's tokens, in the config too, where vLLM reads it."""
        limit = self._tokens_per_image
        self.model.config.vision_config.default_output_length = limit
        self.processor.image_processor.max_soft_tokens = self.processor.image_seq_length = limit
        super().save(folder)


def _largest_limit(most: int) -> int:
    """The largest of the limits that is at most ``most``, or the lowest."""
    return max((limit for limit in TOKENS_PER_IMAGE if limit <= most), default=TOKENS_PER_IMAGE[0])
