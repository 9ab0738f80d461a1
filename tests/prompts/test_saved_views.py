"""Views that were written as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from gpg_vl.prompts.saved_views import read_view
from gpg_vl.records import FrameTimes, ImageView, VideoView

IMAGE = ImageView(640, 480, 644, 476, "grid_1000")
VIDEO = VideoView(64, 48, 56, 56, None, FrameTimes((0, 3, 7), 8, 2.5))


@pytest.mark.parametrize("view", [IMAGE, VIDEO])
def test_a_view_is_read_as_it_was(view: ImageView) -> None:
    assert read_view(json.loads(json.dumps(asdict(view)))) == view


def test_another_object_is_no_view() -> None:
    with pytest.raises(TypeError):
        read_view({"width": 3})
