"""An image becomes tensors, and the prompt around it token ids: what the model is given.

The kit has sized every image by then (``ImageView``). Which tensors a family's model takes, and what its processor
writes into the prompt for an image, its own file says in ``_encode_vision`` and ``image_texts``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from PIL.Image import Image
from torch import Tensor

from gpg_vl.config import ModelConfig
from gpg_vl.models.tokenizing import read_tokens
from gpg_vl.records import Encoded, ImageView, VisionInputs


class ImagesToTensors(ABC):
    """The part of an ``Adapter`` that reads prompts and images."""

    image_token: ClassVar[str]
    """The token in whose places the features of an image go; its id is the config's ``image_token_id``."""
    placeholder: ClassVar[str | None] = None
    """Text of an image in a rendered prompt, before the image's own text replaces it; None: the image token."""

    model: Any
    processor: Any
    tokenizer: Any
    config: ModelConfig

    @property
    def _placeholder(self) -> str:
        return self.placeholder or self.image_token

    def render_plain(self, parts: Sequence[str | None]) -> str:
        return "".join(self.plain_image if part is None else part for part in parts)

    @property
    def plain_image(self) -> str:
        """Text of an image in a prompt without a template."""
        return self._placeholder

    def count_tokens(self, text: str, views: Sequence[ImageView]) -> int:
        return len(self._token_ids(self._with_images(text, views)))

    def count_image_tokens(self, views: Sequence[ImageView]) -> list[int]:
        return [len(self._token_ids(text)) for text in self.image_texts(views)]

    def encode(self, text: str, images: Sequence[Image], views: Sequence[ImageView]) -> Encoded:
        """See ``Adapter.encode``."""
        token_ids = tuple(self._token_ids(self._with_images(text, views)))
        image_token = self.model.config.image_token_id
        token_types = tuple(int(token == image_token) for token in token_ids)
        vision = self._encode_vision(images, views) if images else None
        position_ids = self._positions(token_ids, token_types, vision)
        return Encoded(token_ids, token_types, position_ids, int(position_ids.max()) + 1, vision)

    def _with_images(self, text: str, views: Sequence[ImageView]) -> str:
        """The prompt with the text of each image in the place of its placeholder.

        This is done before the text is split into tokens, as the processors do it: tokens at the seams can differ.
        """
        first, *rest = text.split(self._placeholder)
        assert len(rest) == len(views), f"{len(rest)} placeholders for {len(views)} images"
        pieces = zip(self.image_texts(views), rest, strict=True)
        return first + "".join(image + piece for image, piece in pieces)

    def _token_ids(self, text: str) -> list[int]:
        return read_tokens(self.tokenizer, text, self.config.path)

    def _positions(self, token_ids: Sequence[int], token_types: Sequence[int], vision: VisionInputs | None) -> Tensor:
        """Positions of a prompt [A, P]."""
        return torch.arange(len(token_ids))[None]

    @abstractmethod
    def view(self, width: int, height: int, max_tokens: int | None = None) -> ImageView: ...

    @abstractmethod
    def image_texts(self, views: Sequence[ImageView]) -> list[str]:
        """What stands in a prompt for each of its images, in the words of the family's processor: ``<img><img>``."""

    @abstractmethod
    def _encode_vision(self, images: Sequence[Image], views: Sequence[ImageView]) -> VisionInputs: ...


def resized(images: Sequence[Image], views: Sequence[ImageView]) -> list[Image]:
    """The images in the sizes that the model sees."""
    sizes = ((view.model_width, view.model_height) for view in views)
    return [image if image.size == size else image.resize(size) for image, size in zip(images, sizes, strict=True)]
