"""What families share that cut an image into square tiles, and add the whole image as one more tile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from gpg_vl.models.base import BaseAdapter
from gpg_vl.records import ImageView, VisionInputs


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
            view = ImageView(width, height, columns * self.tile_size, rows * self.tile_size, self.frame)
            if max_tokens is None or most == 1 or self.count_image_tokens([view])[0] <= max_tokens:
                return view
            most = max(1, columns * rows - 1)

    def _columns_and_rows(self, view: ImageView) -> tuple[int, int]:
        return view.model_width // self.tile_size, view.model_height // self.tile_size

    def _num_tiles(self, view: ImageView) -> int:
        """With the whole image, which comes after the tiles unless it is the only one."""
        columns, rows = self._columns_and_rows(view)
        return columns * rows + (columns * rows > 1)

    def _vision_inputs(self, tensors: dict[str, torch.Tensor], views: Sequence[ImageView]) -> VisionInputs:
        tiles = sum(self._num_tiles(view) for view in views)
        patches = (self.tile_size // _side(self.model.config.vision_config.patch_size)) ** 2
        return VisionInputs(tensors, tiles * patches, tiles * self.tokens_per_tile)


def _side(size: int | Sequence[int]) -> int:
    return size if isinstance(size, int) else size[0]
