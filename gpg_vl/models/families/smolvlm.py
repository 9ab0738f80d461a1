"""SmolVLM2 and Idefics3: an image is enlarged to whole tiles along its longer side and cut into rows of tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers
from PIL.Image import Image
from transformers import PreTrainedConfig

from gpg_vl.models.families.tiled import TiledAdapter
from gpg_vl.models.inputs.images_to_tensors import is_opened_small
from gpg_vl.models.inputs.media import describe_times, frames_tensor
from gpg_vl.records import FrameTimes, ImageView, VideoView, VisionInputs

_MOST_SIDES = range(1, 7)
BY_PATCHES = ("5.20.1", "5.20.2")
"""Versions of transformers whose SmolVLM takes a tile's tokens in parts as long as a patch is wide."""


class Idefics3Adapter(TiledAdapter):
    image_token = "<image>"
    vision_tokens = (
        "<fake_token_around_image>",
        "<global-img>",
        "<video>",
        *(f"<row_{row}_col_{column}>" for row in _MOST_SIDES for column in _MOST_SIDES),
    )
    part_prefixes = (("model.vision_model.", "vision"), ("model.connector.", "projector"))
    lora_layers: ClassVar[Mapping[str, str]] = {
        "text": r"model\.text_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj",
        "vision": r"model\.vision_model\.encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])",
    }

    # --- reading ---

    @property
    def tile_size(self) -> int:
        return int(self.processor.image_processor.max_image_size["longest_edge"])

    @property
    def tokens_per_tile(self) -> int:
        return int(self.processor.image_seq_len)

    def _tiles_along(self, most: int) -> int:
        """Tiles along the longer side of every image: a square image then has at most ``most``."""
        own = self.processor.image_processor.size["longest_edge"] // self.tile_size
        return int(max(1, min(own, isqrt(most))))

    def _longest_edge(self, tiles: int) -> dict[str, int]:
        return {"longest_edge": tiles * self.tile_size}

    def grid(self, width: int, height: int, most: int) -> tuple[int, int]:
        size = self._longest_edge(self._tiles_along(most))
        _, rows, columns = self.processor.image_processor.get_number_of_image_patches(height, width, {"size": size})
        return max(1, columns), max(1, rows)

    def image_texts(self, views: Sequence[ImageView]) -> list[str]:
        """An image of a single tile has no rows and no columns."""
        grids = [self._columns_and_rows(view) for view in views]
        columns, rows = zip(*((0, 0) if grid == (1, 1) else grid for grid in grids), strict=True) if grids else ((), ())
        tiles = {"rows": [rows], "cols": [columns]}
        return [self.processor.replace_image_token(tiles, index) for index in range(len(views))]

    def _encode_vision(self, images: Sequence[Image], views: Sequence[ImageView]) -> VisionInputs:
        """``pixel_values`` [1, tiles, 3, side, side], ``pixel_attention_mask`` [1, tiles, side, side]."""
        parts = []
        for image, view in zip(map(self._as_cut, images, views), views, strict=True):
            size = self._longest_edge(max(self._columns_and_rows(view)))
            parts.append(self.processor.image_processor(images=[[image]], size=size, return_tensors="pt"))
        names = ("pixel_values", "pixel_attention_mask")
        return self._vision_inputs({name: torch.cat([part[name] for part in parts], dim=1) for name in names}, views)

    def _as_cut(self, image: Image, view: ImageView) -> Image:
        """A picture that was opened small in the size of its tiles side by side, which fits no other grid."""
        if not is_opened_small(image, view):
            return image
        return image.resize((view.model_width, view.model_height), self.processor.image_processor.resample)

    # --- running and saving ---

    def join_vision(self, parts: Sequence[VisionInputs]) -> VisionInputs:
        """All tiles of all prompts in one list."""
        tensors = {name: torch.cat([part.tensors[name] for part in parts], dim=1) for name in parts[0].tensors}
        return VisionInputs(tensors, sum(part.num_patches for part in parts), sum(part.num_tokens for part in parts))

    @property
    def _text_model(self) -> Any:
        return self.model.model.text_model

    def save(self, folder: Path) -> None:
        """See ``Adapter.save``: with the run's limit, which the kit applies itself."""
        self.processor.image_processor.size = self._longest_edge(self._tiles_along(self._most_tiles()))
        super().save(folder)


class SmolVLMAdapter(Idefics3Adapter):
    """SmolVLM2 reads videos, too: a tile and a time for each frame."""

    video_placeholder = "<video>"

    @classmethod
    def refuse_inexact(cls, config: PreTrainedConfig) -> None:
        super().refuse_inexact(config)
        side = config.vision_config.patch_size
        tokens = (config.vision_config.image_size // side // config.scale_factor) ** 2
        if tokens % side and transformers.__version__ in BY_PATCHES:
            raise ValueError(
                f"model.path: a tile of this SmolVLM is {tokens} tokens, which transformers {transformers.__version__} "
                f"takes {side} at a time, and fails; install any version but {' and '.join(BY_PATCHES)}"
            )

    def view_video(self, width: int, height: int, times: FrameTimes, max_tokens: int | None = None) -> VideoView:
        """See ``Adapter.view_video``: a frame is a square of the video processor's own size."""
        side = int(self.processor.video_processor.max_image_size["longest_edge"])
        return VideoView(width, height, side, side, self.frame, times)

    def video_texts(self, views: Sequence[VideoView]) -> list[str]:
        """``Frame from 00:01:`` before each frame."""
        texts = []
        for view in views:
            frames = {
                "pixel_values": torch.empty(1, len(view.times.numbers)),
                "video_metadata": [describe_times(view.times)],
            }
            texts.append(self.processor.replace_video_token(frames, 0))
        return texts

    def _encode_video(self, frames: Sequence[Image]) -> VisionInputs:
        made = self.processor.video_processor(
            videos=[frames_tensor(frames)], do_sample_frames=False, return_tensors="pt"
        )
        tensors = {name: made[name] for name in ("pixel_values", "pixel_attention_mask")}
        return self._inputs_of_tiles(tensors, len(frames))
