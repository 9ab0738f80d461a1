"""``<image>`` in the text of a row says where an image goes."""

from __future__ import annotations

IMAGE_MARKER = "<image>"


def check_markers(text: str, num_images: int, place: str = "the question") -> None:
    """Refuses a text with another number of markers than images. Without images, what looks like a marker is text.

    Args:
        place: what has the markers, for the message

    Raises:
        ValueError: the numbers differ
    """
    num_markers = text.count(IMAGE_MARKER)
    if num_images and num_markers not in (0, num_images):
        raise ValueError(
            f"{place} has {num_markers} {IMAGE_MARKER} markers for {num_images} images; write one per image, or none"
        )
