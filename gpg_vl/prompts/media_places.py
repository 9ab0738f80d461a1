"""Where the images and videos of a prompt go: at the markers of its text, or before it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gpg_vl.data.media_markers import IMAGE_MARKER, VIDEO_MARKER, check_markers
from gpg_vl.models.inputs.parts import Medium, Part
from gpg_vl.records import ImageView, VideoView

_MEDIA = {IMAGE_MARKER: Medium.IMAGE, VIDEO_MARKER: Medium.VIDEO}


def count_media(views: Sequence[ImageView]) -> dict[str, int]:
    """How many images and how many videos there are, by their marker."""
    num_videos = sum(isinstance(view, VideoView) for view in views)
    return {IMAGE_MARKER: len(views) - num_videos, VIDEO_MARKER: num_videos}


def used_markers(views: Sequence[ImageView]) -> list[str]:
    """The markers that are not text: those of what the prompt has."""
    return [marker for marker, num in count_media(views).items() if num]


def place_media(text: str, views: Sequence[ImageView]) -> list[Part]:
    """Splits at the markers, which say where images and videos go; without markers, images come first, then videos.

    Without images, what looks like their marker is text; likewise without videos.

    Raises:
        ValueError: there is another number of markers than of images, or of videos
    """
    first: list[Part] = []
    placed = []
    for marker, num in count_media(views).items():
        check_markers(text, num, marker=marker)
        if num and marker in text:
            placed.append(marker)
        else:
            first += [_MEDIA[marker]] * num
    pieces = re.split(f"({'|'.join(placed)})", text) if placed else [text]
    parts: list[Part] = [_MEDIA[each] if each in placed else each for each in pieces if each != "" or not placed]
    return [*first, *parts]


def check_template(template: str, request: str, views: Sequence[ImageView]) -> None:
    """Refuses a template with markers, for a row with another number of images or videos."""
    for marker, num in count_media(views).items():
        if marker in template and request.count(marker) != num:
            kind = marker.strip("<>")
            raise ValueError(
                f"prompt.template has {marker}, and with the question {request.count(marker)} of them for {num} "
                f"{kind}s; take {marker} out of prompt.template"
            )
