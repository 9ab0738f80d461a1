"""What families share that cut an image into square tiles, and add the whole image as one more tile.

A frame of a video is one tile, whatever its shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from PIL.Image import Image

from gpg_vl.models.base import BaseAdapter
from gpg_vl.models.inputs.media import split_views
from gpg_vl.models.inputs.parts import Medium
from gpg_vl.records import FrameTimes, ImageView, VideoView, VisionInputs


class TiledAdapter(BaseAdapter):
    """The size at which the model sees an image is that of its tiles side by side, without the whole image."""

    has_tiles: ClassVar[bool] = True

    @property
    def tile_size(self) -> int:
        """Pixels of a tile's side."""
        raise NotImplementedError

    @property
    def tokens_per_tile(self) -> int:
        raise NotImplementedError

    def grid(self, width: int, height: int, most: int) -> tuple[int, int]:
        """Columns and rows of tiles of a ``width`` x ``height`` image, at most ``most`` tiles."""
        raise NotImplementedError

    def _most_tiles(self) -> int:
        return self.config.max_tiles or max(1, self.config.max_pixels // self.tile_size**2)

    def view(self, width: int, height: int, max_tokens: int | None = None) -> ImageView:
        """See ``Adapter.view``. ``max_tokens`` never takes an image below one tile."""
        most = self._most_tiles()
        while True:
            columns, rows = self.grid(width, height, most)
            view = ImageView(
                width, height, columns * self.tile_size, rows * self.tile_size, self.frame, notation=self.notation
            )
            if max_tokens is None or most == 1 or self.count_image_tokens([view])[0] <= max_tokens:
                return view
            most = max(1, columns * rows - 1)

    def view_video(self, width: int, height: int, times: FrameTimes, max_tokens: int | None = None) -> VideoView:
        """See ``Adapter.view_video``. A frame has the tokens of a tile: ``max_tokens`` changes nothing."""
        if self.video_placeholder is None:
            return super().view_video(width, height, times, max_tokens)
        return VideoView(width, height, self.tile_size, self.tile_size, self.frame, times, notation=self.notation)

    def _encode_media(
        self,
        order: Sequence[Medium],
        images: Sequence[Image],
        videos: Sequence[Sequence[Image]],
        views: Sequence[ImageView],
    ) -> VisionInputs:
        of_images, of_videos = split_views(views)
        left_images, left_videos = zip(images, of_images, strict=True), zip(videos, of_videos, strict=True)
        parts = []
        for medium in order:
            if medium is Medium.VIDEO:
                parts.append(self._encode_video(next(left_videos)[0]))
            else:
                image, view = next(left_images)
                parts.append(self._encode_vision([image], [view]))
        return self.join_vision(parts)

    def _encode_video(self, frames: Sequence[Image]) -> VisionInputs:
        """The frames of a video as tiles."""
        raise NotImplementedError

    def _columns_and_rows(self, view: ImageView) -> tuple[int, int]:
        return view.model_width // self.tile_size, view.model_height // self.tile_size

    def _num_tiles(self, view: ImageView) -> int:
        """With the whole image, which comes after the tiles unless it is the only one."""
        columns, rows = self._columns_and_rows(view)
        return columns * rows + (columns * rows > 1)

    def _vision_inputs(self, tensors: dict[str, torch.Tensor], views: Sequence[ImageView]) -> VisionInputs:
        return self._inputs_of_tiles(tensors, sum(self._num_tiles(view) for view in views))

    def _inputs_of_tiles(self, tensors: dict[str, torch.Tensor], tiles: int) -> VisionInputs:
        patches = (self.tile_size // _side(self.model.config.vision_config.patch_size)) ** 2
        return VisionInputs(tensors, tiles * patches, tiles * self.tokens_per_tile)


def _side(size: int | Sequence[int]) -> int:
    return size if isinstance(size, int) else size[0]
