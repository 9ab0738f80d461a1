"""A picture made small enough for a page: drawings stay sharp, photos become JPEG."""

from __future__ import annotations

from io import BytesIO
from typing import Literal, NamedTuple

from PIL import Image

MAX_LOSSLESS_PIXELS = 100_000
JPEG_QUALITY = 85


class Thumbnail(NamedTuple):
    kind: Literal["png", "jpeg"]
    content: bytes


def make_thumbnail(image: Image.Image, max_side: int) -> Thumbnail:
    """
    Args:
        max_side: longer side in pixels, at most; a smaller picture keeps its size
    """
    small = image.copy()
    small.thumbnail((max_side, max_side))
    kind: Literal["png", "jpeg"] = "png" if small.width * small.height <= MAX_LOSSLESS_PIXELS else "jpeg"
    stream = BytesIO()
    small.save(stream, kind.upper(), quality=JPEG_QUALITY)
    return Thumbnail(kind, stream.getvalue())
