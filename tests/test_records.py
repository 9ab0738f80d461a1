from __future__ import annotations

import pytest

from gpg_vl.records import ImageView


@pytest.mark.parametrize("frame", ["grid_1000", "resized_pixels"])
def test_boxes_come_back_from_the_models_frame(frame: str) -> None:
    view = ImageView(640, 480, 644, 476, frame)  # type: ignore[arg-type]
    box = (12.5, 40.0, 320.0, 479.0)
    assert view.to_original(view.to_model(box)) == pytest.approx(box)


def test_frames() -> None:
    assert ImageView(640, 480, 644, 476, "grid_1000").to_original((0, 0, 500, 1000)) == (0, 0, 320, 480)
    assert ImageView(640, 480, 320, 240, "resized_pixels").to_original((10, 10, 320, 240)) == (20, 20, 640, 480)
