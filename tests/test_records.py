from __future__ import annotations

from typing import get_args

import pytest

from gpg_vl.records import Frame, ImageView


@pytest.mark.parametrize("frame", get_args(Frame))
def test_boxes_come_back_from_the_models_frame(frame: Frame) -> None:
    view = ImageView(640, 480, 644, 476, frame)
    box = (12.5, 40.0, 320.0, 479.0)
    assert view.to_original(view.to_model(box)) == pytest.approx(box)


def test_frames() -> None:
    assert ImageView(640, 480, 644, 476, "grid_1000").to_original((0, 0, 500, 1000)) == (0, 0, 320, 480)
    assert ImageView(640, 480, 320, 240, "resized_pixels").to_original((10, 10, 320, 240)) == (20, 20, 640, 480)
    assert ImageView(640, 480, 896, 896, "grid_1000_y_first").to_original((0, 500, 250, 1000)) == (320, 0, 640, 120)
    assert ImageView(640, 480, 224, 224, "loc_1024").to_original((0, 512, 256, 1024)) == (320, 0, 640, 120)


def test_a_frame_that_is_not_known_is_asked_for() -> None:
    view = ImageView(640, 480, 896, 896, None)
    for convert in (view.to_original, view.to_model):
        with pytest.raises(ValueError, match=r"model\.frame.*grid_1000_y_first"):
            convert((0, 0, 1, 1))
