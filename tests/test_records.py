from __future__ import annotations

import pytest

from gpg_vl.records import ImageView, Prompt, Sample, completion_text, continue_prompt
from tests.support.builders import make_encoded


@pytest.mark.parametrize("frame", ["grid_1000", "resized_pixels"])
def test_boxes_come_back_from_the_models_frame(frame: str) -> None:
    view = ImageView(640, 480, 644, 476, frame)  # type: ignore[arg-type]
    box = (12.5, 40.0, 320.0, 479.0)
    assert view.to_original(view.to_model(box)) == pytest.approx(box)


def test_frames() -> None:
    assert ImageView(640, 480, 644, 476, "grid_1000").to_original((0, 0, 500, 1000)) == (0, 0, 320, 480)
    assert ImageView(640, 480, 320, 240, "resized_pixels").to_original((10, 10, 320, 240)) == (20, 20, 640, 480)


@pytest.mark.parametrize(
    ("ending", "text", "read"),
    [
        ("", "<think>a</think>4", "<think>a</think>4"),
        ("<think>", "a</think>4", "<think>a</think>4"),
        ("<think>\n", "a</think>4", "<think>\na</think>4"),
        ("<think>\n", "<think>a</think>4", "<think>a</think>4"),
        ("<think>\n\n</think>\n\n", "4", "<think>\n\n</think>\n\n4"),
        ("<think>\n\n</think>\n\n", "\n<think>a</think>4", "\n<think>a</think>4"),
        ("<think> is a tag\n", "4", "4"),
        ("</think>\n", "4", "4"),
    ],
)
def test_a_completion_has_the_reasoning_that_its_prompt_opened(ending: str, text: str, read: str) -> None:
    prompt = Prompt(Sample("a", "t", (), "q", "4"), f"assistant\n{ending}", make_encoded(), ())
    assert completion_text(prompt, text) == read


@pytest.mark.parametrize(
    ("ending", "written", "rest"),
    [
        ("", "<think>a</think>4", "<think>a</think>4"),
        ("<think>", "<think>a</think>4", "a</think>4"),
        ("<think>\n", "<think>a</think>4", "a</think>4"),
        ("<think>\n\n</think>\n\n", "<think></think>4", "4"),
        ("<think>\n\n</think>\n\n", "<think>a</think>4", "<think>a</think>4"),
    ],
)
def test_a_written_completion_goes_on_from_its_prompt(ending: str, written: str, rest: str) -> None:
    assert continue_prompt(f"assistant\n{ending}", written) == rest
