"""``<image>`` in the text of a row says where an image goes, ``<video>`` where a video goes."""

from __future__ import annotations

IMAGE_MARKER, VIDEO_MARKER = "<image>", "<video>"


def check_markers(text: str, num_images: int, place: str = "the question", marker: str = IMAGE_MARKER) -> None:
    """Refuses a text with another number of markers than images. Without images, what looks like a marker is text.

    Args:
        num_images: or videos, if the marker is theirs
        place: what has the markers, for the message

    Raises:
        ValueError: the numbers differ
    """
    num_markers = text.count(marker)
    if num_images and num_markers not in (0, num_images):
        kind = marker.strip("<>")
        raise ValueError(
            f"{place} has {num_markers} {marker} markers for {num_images} {kind}s; write one per {kind}, or none"
        )
