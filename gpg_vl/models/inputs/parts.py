"""What a prompt is made of: text, and the places of images and videos in it."""

from __future__ import annotations

from enum import Enum


class Medium(Enum):
    """What the model is shown. The value is its ``type`` in a conversation of transformers."""

    IMAGE = "image"
    VIDEO = "video"


Part = str | Medium
