"""Where images and videos go in a prompt."""

from __future__ import annotations

import pytest

from gpg_vl.models.inputs.parts import Medium, Part
from gpg_vl.prompts.media_places import check_template, place_media
from gpg_vl.records import FrameTimes, ImageView, VideoView
from tests.support.messages import naming

IMAGE, VIDEO = Medium.IMAGE, Medium.VIDEO
SIZES = (8, 8, 8, 8, "grid_1000")


def views(num_images: int, num_videos: int) -> list[ImageView]:
    videos: list[ImageView] = [VideoView(*SIZES, FrameTimes((0,), 1, 2.0)) for _ in range(num_videos)]  # type: ignore[arg-type]
    return [ImageView(*SIZES) for _ in range(num_images)] + videos  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "num_images", "num_videos", "parts"),
    [
        ("a", 0, 0, ["a"]),
        ("a", 1, 2, [IMAGE, VIDEO, VIDEO, "a"]),
        ("a <video> b", 0, 1, ["a ", VIDEO, " b"]),
        ("<video><image>a", 1, 1, [VIDEO, IMAGE, "a"]),
        ("a <image> b <video>", 1, 1, ["a ", IMAGE, " b ", VIDEO]),
        ("a <video> b", 2, 1, [IMAGE, IMAGE, "a ", VIDEO, " b"]),
        ("a <image> b", 1, 1, [VIDEO, "a ", IMAGE, " b"]),
        ("a <video> b", 1, 0, [IMAGE, "a <video> b"]),
        ("a <image> b", 0, 1, [VIDEO, "a <image> b"]),
    ],
)
def test_markers_say_where_media_go(text: str, num_images: int, num_videos: int, parts: list[Part]) -> None:
    assert place_media(text, views(num_images, num_videos)) == parts


@pytest.mark.parametrize(("text", "media"), [("<video>", (0, 2)), ("<image><image> <video>", (1, 1))])
def test_another_number_of_markers_is_refused(text: str, media: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=naming("markers", "the question")):
        place_media(text, views(*media))


def test_a_template_with_markers_fits_its_row() -> None:
    check_template("<video> {question}", "<video> How many?", views(0, 1))
    for num_videos in (0, 2):
        with pytest.raises(ValueError, match=naming("prompt.template", "<video>", num_videos)):
            check_template("<video> {question}", "<video> How many?", views(0, num_videos))
