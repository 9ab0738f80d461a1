"""An image or a video becomes tensors, and the prompt around it token ids: what the model is given.

The kit has sized every picture by then (``ImageView``, ``VideoView``). Which tensors a family's model takes, and what
its processor writes into the prompt for an image, its own file says in ``_encode_vision`` and ``image_texts``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from PIL.Image import Image
from torch import Tensor

from gpg_vl.config import ModelConfig
from gpg_vl.models.inputs.media import fill_in, order_of_media, split_views
from gpg_vl.models.inputs.parts import Medium, Part
from gpg_vl.models.inputs.tokenizing import read_start, read_tokens
from gpg_vl.records import Encoded, FrameTimes, ImageView, Notation, VideoView, VisionInputs


class ImagesToTensors(ABC):
    """The part of an ``Adapter`` that reads prompts, images and videos."""

    image_token: ClassVar[str]
    """The token in whose places the features of an image go; its id is the config's ``image_token_id``."""
    placeholder: ClassVar[str | None] = None
    """Text of an image in a rendered prompt, before the image's own text replaces it; None: the image token."""
    video_placeholder: ClassVar[str | None] = None
    """Text of a video in a rendered prompt, before the video's own text replaces it; None: the family reads none."""

    notation: ClassVar[Notation] = "list"
    """What the family writes around the numbers of a box; its views say it where it is no list."""

    model: Any
    processor: Any
    tokenizer: Any
    config: ModelConfig

    @property
    def _placeholder(self) -> str:
        return self.placeholder or self.image_token

    @property
    def _placeholders(self) -> dict[Medium, str]:
        videos = {} if self.video_placeholder is None else {Medium.VIDEO: self.video_placeholder}
        return {Medium.IMAGE: self._placeholder, **videos}

    def render_plain(self, parts: Sequence[Part]) -> str:
        texts = {Medium.IMAGE: self.plain_image, Medium.VIDEO: self.plain_video}
        return self.plain_start + "".join(texts[part] if isinstance(part, Medium) else part for part in parts)

    @cached_property
    def plain_start(self) -> str:
        """What a prompt without a template begins with: by default, what the tokenizer puts there by itself."""
        return read_start(self.tokenizer, self.config.path)

    @property
    def plain_image(self) -> str:
        """Text of an image in a prompt without a template."""
        return self._placeholder

    @property
    def plain_video(self) -> str:
        """Text of a video in a prompt without a template."""
        return self.video_placeholder or ""

    def count_tokens(self, text: str, views: Sequence[ImageView]) -> int:
        return len(self._token_ids(self._with_media(text, views)))

    def count_image_tokens(self, views: Sequence[ImageView]) -> list[int]:
        images, videos = split_views(views)
        return [len(self._token_ids(text)) for text in (*self.image_texts(images), *self.video_texts(videos))]

    def encode(
        self,
        text: str,
        images: Sequence[Image],
        views: Sequence[ImageView],
        videos: Sequence[Sequence[Image]] = (),
        vision: VisionInputs | None = None,
    ) -> Encoded:
        """See ``Adapter.encode``."""
        token_ids = tuple(self._token_ids(self._with_media(text, views)))
        token_types = self._token_types(token_ids)
        if images and videos:
            vision = self._encode_media(order_of_media(text, self._placeholders), images, videos, views)
        elif vision is None:
            vision = self.encode_media(images, views, videos)
        position_ids = self._positions(token_ids, token_types, vision)
        # the last token's, not the largest: the times of a video may reach past the text behind it
        return Encoded(token_ids, token_types, position_ids, int(position_ids[:, -1].max()) + 1, vision)

    def encode_media(
        self, images: Sequence[Image], views: Sequence[ImageView], videos: Sequence[Sequence[Image]] = ()
    ) -> VisionInputs | None:
        """See ``Adapter.encode_media``: images among videos are in the order in which the text shows them."""
        if videos:
            return None if images else self._encode_media([Medium.VIDEO] * len(videos), (), videos, views)
        return self._encode_vision(images, views) if images else None

    def _token_types(self, token_ids: Sequence[int]) -> tuple[int, ...]:
        """See ``Encoded.token_types``."""
        image_token = self.model.config.image_token_id
        return tuple(int(token == image_token) for token in token_ids)

    def _with_media(self, text: str, views: Sequence[ImageView]) -> str:
        """The prompt with the text of each image and video in the place of its placeholder.

        This is done before the text is split into tokens, as the processors do it: tokens at the seams can differ.
        """
        images, videos = split_views(views)
        texts = {self._placeholder: self.image_texts(images)}
        if videos and self.video_placeholder is not None:
            texts[self.video_placeholder] = self.video_texts(videos)
        return fill_in(text, texts)

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

    def view_video(self, width: int, height: int, times: FrameTimes, max_tokens: int | None = None) -> VideoView:
        """See ``Adapter.view_video``."""
        raise ValueError(
            f"the row has a video, and the kit gives a {self.model.config.model_type} model none; remove the row, or "
            "take a model of a family that docs/models.md lists with video"
        )

    def video_texts(self, views: Sequence[VideoView]) -> list[str]:
        """What stands in a prompt for each of its videos, as ``image_texts``."""
        assert not views, "a family that reads videos says their text"
        return []

    def _encode_media(
        self,
        order: Sequence[Medium],
        images: Sequence[Image],
        videos: Sequence[Sequence[Image]],
        views: Sequence[ImageView],
    ) -> VisionInputs:
        """As ``_encode_vision``, of images and videos in the order in which the prompt shows them.

        Only for families with videos: the others refuse a row in ``view_video``.
        """
        raise NotImplementedError

    @abstractmethod
    def _encode_vision(self, images: Sequence[Image], views: Sequence[ImageView]) -> VisionInputs: ...


def is_opened_small(image: Image, view: ImageView) -> bool:
    """Whether a picture is a part of its file's size (``data.on_large_image: shrink``).

    Its sides are rounded up, so another grid may fit it than the one of the view, which comes from the file's size.
    """
    return bool(image.size != (view.width, view.height))


def resized(images: Sequence[Image], views: Sequence[ImageView]) -> list[Image]:
    """The images in the sizes that the model sees."""
    sizes = ((view.model_width, view.model_height) for view in views)
    return [image if image.size == size else image.resize(size) for image, size in zip(images, sizes, strict=True)]
