"""PaliGemma and PaliGemma 2: the prompt, images first, sees itself whole; boxes are location tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import transformers
from packaging.version import Version
from PIL.Image import Image
from torch import Tensor
from transformers import PreTrainedConfig

from gpg_vl.config import ModelConfig
from gpg_vl.models.families.layer_masks import LayerMasksAdapter, Sight
from gpg_vl.models.folder.loading import has_capped_scores
from gpg_vl.models.inputs.parts import Medium, Part
from gpg_vl.records import Encoded, Frame, ImageFeatures, ImageView, VisionInputs

CAPPED_SINCE = "5.23"
"""Version of transformers from which PaliGemma 2 caps its logits."""


class PaliGemmaAdapter(LayerMasksAdapter):
    image_token = "<image>"
    sees_whole_prompts = True
    part_prefixes = (("model.vision_tower.", "vision"), ("model.multi_modal_projector.", "projector"))
    lora_layers: ClassVar[Mapping[str, str]] = {
        "text": r"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj",
        "vision": r"model\.vision_tower\.(vision_model\.)?encoder\.layers\.\d+\."
        r"(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])",
    }

    def __init__(self, model: Any, processor: Any, config: ModelConfig, frame: Frame | None):
        """
        Raises:
            ValueError: ``model.attention`` is sdpa for PaliGemma 2
        """
        if has_capped_scores(model.config.text_config) and config.attention_of("text") == "sdpa":
            raise ValueError("model.attention: sdpa leaves out this model's cap on the scores; use auto or eager")
        super().__init__(model, processor, config, frame)

    @classmethod
    def refuse_inexact(cls, config: PreTrainedConfig) -> None:
        super().refuse_inexact(config)
        if _logit_cap(config) is not None and Version(transformers.__version__) < Version(CAPPED_SINCE):
            raise ValueError(
                f"model.path: PaliGemma 2 needs transformers {CAPPED_SINCE}, and {transformers.__version__} is "
                "installed, which leaves out the cap on its logits; install a newer one"
            )

    # --- reading ---

    def render_plain(self, parts: Sequence[Part]) -> str:
        """All images, then the beginning of the text, the text, and a new line: as the processor writes it.

        The model has learned with images in front alone, so markers in the text do not say their place.
        """
        images = self.image_token * parts.count(Medium.IMAGE)
        text = "".join(part for part in parts if isinstance(part, str))
        return f"{images}{self.tokenizer.bos_token}{text}\n"

    def view(self, width: int, height: int, max_tokens: int | None = None) -> ImageView:
        """See ``Adapter.view``: one size for every image, whatever the pixel limits."""
        size = self.processor.image_processor.size
        return ImageView(width, height, size["width"], size["height"], self.frame)

    def image_texts(self, views: Sequence[ImageView]) -> list[str]:
        return [self.image_token * self.processor.image_seq_length] * len(views)

    def _encode_vision(self, images: Sequence[Image], views: Sequence[ImageView]) -> VisionInputs:
        """``pixel_values`` [N, 3, height, width]."""
        pixels = self.processor.image_processor(images=list(images), return_tensors="pt")["pixel_values"]
        num_tokens = len(pixels) * self.processor.image_seq_length  # one for each patch
        return VisionInputs({"pixel_values": pixels}, num_tokens, num_tokens)

    def _positions(self, token_ids: Sequence[int], token_types: Sequence[int], vision: VisionInputs | None) -> Tensor:
        return 1 + torch.arange(len(token_ids))[None]

    # --- running ---

    @property
    def logit_cap(self) -> float | None:
        return _logit_cap(self.model.config)

    def layer_masks(self, sight: Sight) -> Tensor | dict[str, Tensor]:
        """The prompt sees itself whole, however far; in PaliGemma 2 completions have a window in half of the layers."""
        prompt = sight.same_prompt()
        window = getattr(self.model.config.text_config, "sliding_window", None)
        if window is None:
            return sight.earlier | prompt
        near = sight.earlier & sight.within(window)
        return {"full_attention": sight.earlier | prompt, "sliding_attention": near | prompt}

    def _inputs(
        self, input_ids: Tensor, token_types: Tensor, vision: VisionInputs | None, features: ImageFeatures | None
    ) -> tuple[Any, dict[str, Any]]:
        """The text model in all cases: the whole model takes no masks by type of layer."""
        if vision is not None:
            features = self.encode_images(vision)
        if features is None:
            return self._text_model, {"input_ids": input_ids}
        return self._text_model, self._embed(input_ids, token_types, features)

    def _plain_types(self, encoded: Encoded, num_completion: int) -> list[int]:
        """0 in the prompt, images included, and 1 in the completion."""
        return [*[0] * len(encoded.token_ids), *[1] * num_completion]

    def _plain_arguments(self, ids: Tensor, token_types: Tensor, vision: Mapping[str, Tensor]) -> dict[str, Any]:
        return {"token_type_ids": token_types, **vision}


def _logit_cap(config: PreTrainedConfig) -> float | None:
    cap: float | None = getattr(config.get_text_config(), "final_logit_softcapping", None)
    return cap
