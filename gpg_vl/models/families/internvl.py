"""InternVL 3 and 3.5: an image is cut into the grid of tiles closest to its shape; a frame of a video is one tile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from PIL.Image import Image
from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

from gpg_vl.models.families.tiled import TiledAdapter
from gpg_vl.models.inputs.media import frames_tensor
from gpg_vl.records import ImageView, VideoView, VisionInputs


class InternVLAdapter(TiledAdapter):
    image_token = "<IMG_CONTEXT>"
    video_placeholder = "<video>"
    notation = "lists"
    vision_tokens = ("<img>", "</img>", "<video>")
    part_prefixes = (("model.vision_tower.", "vision"), ("model.multi_modal_projector.", "projector"))
    lora_layers: ClassVar[Mapping[str, str]] = {
        "text": r"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj",
        "vision": r"model\.vision_tower\.encoder\.layer\.\d+\."
        r"(attention\.([qkv]_proj|projection_layer)|mlp\.fc[12])",
    }

    # --- reading ---

    @property
    def tile_size(self) -> int:
        return int(self.processor.image_processor.size["height"])

    @property
    def tokens_per_tile(self) -> int:
        return int(self.processor.image_seq_length)

    def _most_tiles(self) -> int:
        """A recipe's limit counts; without one, neither the pixels nor the processor's own may be exceeded."""
        most = super()._most_tiles()
        return most if self.config.max_tiles else min(most, self.processor.image_processor.max_patches)

    def grid(self, width: int, height: int, most: int) -> tuple[int, int]:
        columns, rows = get_optimal_tiled_canvas((height, width), (self.tile_size, self.tile_size), 1, most)
        return columns, rows

    def image_texts(self, views: Sequence[ImageView]) -> list[str]:
        tiles = {"num_patches": [self._num_tiles(view) for view in views]}
        return [self.processor.replace_image_token(tiles, index) for index in range(len(views))]

    def _encode_vision(self, images: Sequence[Image], views: Sequence[ImageView]) -> VisionInputs:
        """``pixel_values`` [tiles, 3, side, side]."""
        parts = []
        for image, view in zip(images, views, strict=True):
            columns, rows = self._columns_and_rows(view)
            tiles = self.processor.image_processor(
                images=[image], crop_to_patches=True, min_patches=columns * rows, max_patches=columns * rows,
                return_tensors="pt",
            )  # fmt: skip
            parts.append(tiles["pixel_values"])
        return self._vision_inputs({"pixel_values": torch.cat(parts)}, views)

    def video_texts(self, views: Sequence[VideoView]) -> list[str]:
        """The frames are numbered; nothing says when they are shown."""
        frames = {"pixel_values_videos": [torch.empty(len(view.times.numbers), 0) for view in views]}
        return [self.processor.replace_video_token(frames, index) for index in range(len(views))]

    def _encode_video(self, frames: Sequence[Image]) -> VisionInputs:
        made = self.processor.video_processor(
            videos=[frames_tensor(frames)], do_sample_frames=False, return_tensors="pt"
        )
        return self._inputs_of_tiles({"pixel_values": made["pixel_values_videos"].flatten(0, 1)}, len(frames))

    # --- saving ---

    def save(self, folder: Path) -> None:
        """See ``Adapter.save``: with the run's limit, which the kit applies itself."""
        self.processor.image_processor.max_patches = self._most_tiles()
        super().save(folder)
