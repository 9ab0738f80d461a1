"""Molmo2: overlapping crops of an image and the whole of it, whose tokens all see each other, across images too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL.Image import Image
from torch import Tensor

from gpg_vl.models.families.layer_masks import LayerMasksAdapter, Sight
from gpg_vl.models.inputs.parts import Part
from gpg_vl.records import ImageFeatures, ImageView, VisionInputs


class Molmo2Adapter(LayerMasksAdapter):
    """Features are added to the embeddings of their places; the embedding has more rows than the head."""

    image_token = "<im_patch>"
    placeholder = "<|image|>"
    vision_tokens = ("<|image|>", "<|video|>")
    has_tiles = True
    part_prefixes = (("model.vision_tower.", "vision"), ("model.multi_modal_projector.", "projector"))
    lora_layers: ClassVar[Mapping[str, str]] = {
        "text": r"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj",
        "vision": r"model\.vision_tower\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.fc[12])",
    }

    # --- reading ---

    def render_chat(self, parts: Sequence[Part], system: str | None, thinking: bool | None = None) -> str:
        text = super().render_chat(parts, system, thinking)
        return text if text.startswith(self.plain_start) else self.plain_start + text

    @property
    def plain_start(self) -> str:  # type: ignore[override]
        """Of every text; a tokenizer without a token for it has the one that ends texts there."""
        return str(self.tokenizer.bos_token or self.tokenizer.eos_token)

    def view(self, width: int, height: int, max_tokens: int | None = None) -> ImageView:
        """See ``Adapter.view``: the canvas that the crops cover. No limit takes an image below one crop."""
        most = self._most_crops
        view = self._view(width, height, most)
        while max_tokens is not None and most > 1 and self.count_image_tokens([view])[0] > max_tokens:
            most -= 1
            view = self._view(width, height, most)
        return view

    @property
    def _most_crops(self) -> int:
        """A recipe's limit counts; without one, neither the pixels nor the processor's own may be exceeded."""
        images = self.processor.image_processor
        pixels = images.size["height"] * images.size["width"]
        return self.config.max_tiles or max(1, min(images.max_crops, self.config.max_pixels // pixels))

    def _view(self, width: int, height: int, max_crops: int) -> ImageView:
        images = self.processor.image_processor
        [_, _, rows, columns], _ = images.get_image_grid_and_crops(height, width, {"max_crops": max_crops})
        pooled_height, pooled_width = (images.patch_size * side for side in images.pooling_size)
        return ImageView(width, height, columns * pooled_width, rows * pooled_height, self.frame)

    def _crops_of(self, view: ImageView) -> int:
        """The lowest limit on crops that gives the view."""
        limits = range(1, self._most_crops + 1)
        return next(most for most in limits if self._view(view.width, view.height, most) == view)

    def image_texts(self, views: Sequence[ImageView]) -> list[str]:
        images = self.processor.image_processor
        limits = [{"max_crops": self._crops_of(view)} for view in views]
        grids = [
            images.get_image_grid_and_crops(view.height, view.width, limit)[0]
            for view, limit in zip(views, limits, strict=True)
        ]
        return [self.processor.replace_image_token({"image_grids": grids}, index) for index in range(len(views))]

    def _token_types(self, token_ids: Sequence[int]) -> tuple[int, ...]:
        """The tokens around and between an image's patches are of its type too."""
        of_images = set(self.processor.image_token_ids)
        return tuple(int(token in of_images) for token in token_ids)

    def _encode_vision(self, images: Sequence[Image], views: Sequence[ImageView]) -> VisionInputs:
        """``pixel_values`` [C, K, D] of C crops in all, ``image_token_pooling`` [I, 4] which patches a token pools."""
        return self.join_vision([self._encode_image(image, view) for image, view in zip(images, views, strict=True)])

    def _encode_image(self, image: Image, view: ImageView) -> VisionInputs:
        size = (view.width, view.height)
        whole = image if image.size == size else image.resize(size)
        tensors = self.processor.image_processor(
            images=[whole], max_crops=self._crops_of(view), return_tensors="pt"
        ).data
        return VisionInputs(tensors, tensors["pixel_values"].shape[:2].numel(), len(tensors["image_token_pooling"]))

    # --- running and saving ---

    def join_vision(self, parts: Sequence[VisionInputs]) -> VisionInputs:
        """The patches that a token pools are counted over all crops."""
        before = 0
        moved = []
        for part in parts:
            pooling = part.tensors["image_token_pooling"]
            pooling = torch.where(pooling >= 0, pooling + before, pooling)
            moved.append(replace(part, tensors={**part.tensors, "image_token_pooling": pooling}))
            before += part.num_patches
        return super().join_vision(moved)

    def layer_masks(self, sight: Sight) -> Tensor:
        return sight.earlier | sight.any_images()

    def _forward_arguments(self, token_types: Tensor, vision: VisionInputs | None) -> dict[str, Any]:
        return {"mm_token_type_ids": token_types, **super()._forward_arguments(token_types, vision)}

    def _embed(self, input_ids: Tensor, token_types: Tensor, features: ImageFeatures) -> dict[str, Any]:
        embedded = self.model.get_input_embeddings()(input_ids)
        places = (input_ids == self.model.config.image_token_id)[..., None].expand_as(embedded)
        added = torch.zeros_like(embedded).masked_scatter(places, features.levels[0].to(embedded.dtype))
        return {"inputs_embeds": embedded + added}

    def _plain_arguments(self, ids: Tensor, token_types: Tensor, vision: Mapping[str, Tensor]) -> dict[str, Any]:
        return {"mm_token_type_ids": token_types, **vision}

    def encode_images(self, vision: VisionInputs) -> ImageFeatures:
        tensors = {name: vision.tensors[name] for name in ("pixel_values", "image_token_pooling", "image_grids")}
        return ImageFeatures((torch.cat(self.model.model.get_image_features(**tensors).pooler_output),))

    def save(self, folder: Path) -> None:
        """See ``Adapter.save``: with the run's limit on the crops of an image."""
        self.processor.image_processor.max_crops = self._most_crops
        super().save(folder)
