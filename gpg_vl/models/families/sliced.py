"""What families share whose image processor cuts an image by itself, within limits that it takes as arguments.

The kit gives it the finest limits under which an image has few enough tokens, and lets it do the rest.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from PIL.Image import Image

from gpg_vl.models.base import BaseAdapter
from gpg_vl.models.inputs.images_to_tensors import is_opened_small
from gpg_vl.records import ImageView, VisionInputs

Limits = Mapping[str, Any]
"""Arguments of the image processor."""


class Tiling(NamedTuple):
    """What becomes of an image: the whole of it, made small, and rows and columns of tiles if it is large."""

    whole: tuple[int, int]  # width and height
    columns: int = 1
    rows: int = 1
    tile: tuple[int, int] = (0, 0)  # width and height

    @property
    def is_cut(self) -> bool:
        return self.columns * self.rows > 1

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the finest that the model sees."""
        return (self.columns * self.tile[0], self.rows * self.tile[1]) if self.is_cut else self.whole


class SlicedAdapter(BaseAdapter):
    has_tiles: ClassVar[bool] = True

    @abstractmethod
    def _limits(self) -> Iterator[Limits]:
        """From the finest that the recipe allows to the coarsest."""

    @abstractmethod
    def _tiling(self, width: int, height: int, limits: Limits) -> Tiling | None:
        """What the image processor does to a ``width`` x ``height`` image; None where it fails on it."""

    @abstractmethod
    def _image_text(self, tiling: Tiling, index: int) -> str:
        """The processor's words for the image that is number ``index`` of its prompt."""

    @abstractmethod
    def _answers(self, tiling: Tiling) -> Mapping[str, Any]:
        """What the image processor's own methods say, by their names, of an image that it cuts so."""

    @abstractmethod
    def _process(self, processor: Any, image: Image, limits: Limits, num_tokens: int) -> VisionInputs:
        """
        Args:
            processor: the family's image processor
        """

    def _most_tiles(self, side: int, own: int) -> int:
        """
        Args:
            side: pixels of a tile's side
            own: the most tiles that the processor cuts by itself
        """
        return self.config.max_tiles or max(1, min(own, self.config.max_pixels // side**2))

    def view(self, width: int, height: int, max_tokens: int | None = None) -> ImageView:
        """See ``Adapter.view``; an image that has more tokens at the coarsest limits is seen at those."""
        chosen = None
        for _, tiling in self._tilings(width, height):
            chosen = tiling
            if max_tokens is None or len(self._token_ids(self._image_text(tiling, 0))) <= max_tokens:
                break
        if chosen is None:
            raise ValueError(f"a {width} x {height} image is too narrow for the model; crop it")
        return ImageView(width, height, *chosen.size, self.frame, notation=self.notation)

    def _tilings(self, width: int, height: int) -> Iterator[tuple[Limits, Tiling]]:
        for limits in self._limits():
            tiling = self._tiling(width, height, limits)
            if tiling is not None:
                yield limits, tiling

    def _choice(self, view: ImageView) -> tuple[Limits, Tiling]:
        """The limits that a view was made under, and what they lead to."""
        size = (view.model_width, view.model_height)
        return next(each for each in self._tilings(view.width, view.height) if each[1].size == size)

    def image_texts(self, views: Sequence[ImageView]) -> list[str]:
        return [self._image_text(self._choice(view)[1], index) for index, view in enumerate(views)]

    def _encode_vision(self, images: Sequence[Image], views: Sequence[ImageView]) -> VisionInputs:
        counts = [text.count(self.image_token) for text in self.image_texts(views)]
        parts = []
        for image, view, count in zip(images, views, counts, strict=True):
            limits, tiling = self._choice(view)
            processor = self._cutting(tiling) if is_opened_small(image, view) else self.processor.image_processor
            parts.append(self._process(processor, image, limits, count))
        return self.join_vision(parts)

    def _cutting(self, tiling: Tiling) -> Any:
        """A copy of the image processor that cuts every picture so, whatever its size: one that was opened small."""
        processor = copy(self.processor.image_processor)
        for name, answer in self._answers(tiling).items():
            setattr(processor, name, partial(_say, answer))
        return processor

    def save(self, folder: Path) -> None:
        """See ``Adapter.save``: with the run's limits."""
        for name, value in next(self._limits()).items():
            setattr(self.processor.image_processor, name, value)
        super().save(folder)


def _say(answer: Any, *_: Any, **__: Any) -> Any:
    return answer
