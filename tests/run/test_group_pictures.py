"""Pictures of groups for trackers: boxes where they belong, and any text and any box drawn without harm."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

from gpg_vl.run.group_pictures import draw_groups

GREEN, RED = (0, 140, 60), (200, 30, 60)


def completion(answer: str | None, reward: float, *boxes: tuple[float, float, float, float]) -> dict[str, Any]:
    return {"answer": answer, "reward": reward, "boxes": list(boxes)}


def row(**changes: Any) -> dict[str, Any]:
    usual = {
        "task": "grounding", "question": "Where?", "answer": "[8, 4, 40, 20]", "boxes": [(8.0, 4.0, 40.0, 20.0)],
        "images": [{"file": "images/a.png", "width": 800, "height": 400}], "videos": [],
        "completions": [completion("[1, 2, 3, 4]", 0.1, (0, 0, 1, 1)), completion(None, 0.9, (400, 200, 800, 400))],
    }  # fmt: skip
    return {**usual, **changes}


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """A picture of half the original's size."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (400, 200), "white").save(tmp_path / "images/a.png")
    return tmp_path


def coloured(card: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the pixels of a colour within the place of the picture."""
    ys, xs = (numpy.asarray(card.crop((12, 12, 388, 200))) == colour).all(-1).nonzero()
    return int(xs.min()), int(ys.min()), int(xs.max()), int(ys.max())


def test_boxes_of_the_gold_answer_and_of_the_best_completion(record: Path) -> None:
    """The picture is drawn 376 pixels wide, at 0.47 of the original."""
    [card] = draw_groups([row(boxes=[(80, 40, 400, 200)])], record).values()
    assert coloured(card, GREEN) == pytest.approx((38, 19, 188, 94), abs=2)
    assert coloured(card, RED) == pytest.approx((188, 94, 375, 187), abs=2), "not those of the other completion"


def test_the_first_frame_of_a_video_is_drawn_where_there_is_no_image(record: Path) -> None:
    frames = [{"file": "images/a.png", "seconds": 0.0}]
    video = {"width": 800, "height": 400, "num_frames": 1, "frames": frames}
    [of_video] = draw_groups([row(images=[], videos=[video])], record).values()
    [of_image] = draw_groups([row()], record).values()
    assert of_video.tobytes() == of_image.tobytes()


def test_the_first_groups_of_a_step(record: Path) -> None:
    pictures = draw_groups([row()] * 9, record)
    assert list(pictures) == ["groups/1", "groups/2", "groups/3", "groups/4"]
    assert draw_groups([], record) == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"images": []},
        {"images": [{"file": None, "width": None, "height": None}]},
        {"completions": []},
        {"question": "\x1b[2J\u202e\ud800 " * 9999, "answer": "\n" * 99},
        {"boxes": [(-1e300, math.inf, 1e300, -math.inf), (9, 9, 1, 1)]},
        {"completions": [completion("x" * 9999, math.nan)] * 64},
    ],
)
def test_anything_can_be_drawn(record: Path, changes: dict[str, Any]) -> None:
    [card] = draw_groups([row(**changes)], record).values()
    assert card.size == (960, 400)
