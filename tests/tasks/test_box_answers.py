"""How far a box may lie outside its image, and what may stand beside boxes."""

from __future__ import annotations

import pytest

from gpg_vl.records import Frame, ImageView, Notation, Sample
from gpg_vl.tasks import TASKS
from gpg_vl.tasks.base import gold_completion, score_completion
from gpg_vl.tasks.box_answers import box_to_text, boxes_in_image, write_box
from gpg_vl.verifiers.box_text import parse_answered

SIZES = [(50, 40), (640, 480), (1000, 1000), (4000, 3000)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("box", [(0, 0, 1002, 1000), (0, -2, 1000, 1000), (-1, 0, 1000, 1001)])
def test_two_units_of_the_grid_past_the_edge_are_moved_back(size: tuple[int, int], box: tuple[int, ...]) -> None:
    width, height = size
    x1, y1, x2, y2 = map(float, box)
    view = ImageView(width, height, width, height, "grid_1000")
    assert boxes_in_image([(x1, y1, x2, y2)], view) == [(0, 0, width, height)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("box", [(0, 0, 1003, 1000), (0, 0, 1010, 1000), (-3, 0, 1000, 1000), (0, 0, 1000, 1003)])
def test_three_units_are_too_many_however_small_the_picture(size: tuple[int, int], box: tuple[int, ...]) -> None:
    x1, y1, x2, y2 = map(float, box)
    assert boxes_in_image([(x1, y1, x2, y2)], ImageView(*size, *size, "grid_1000")) is None


@pytest.mark.parametrize("scale", [0.5, 1, 2])
def test_one_pixel_of_the_model_past_the_edge(scale: float) -> None:
    view = ImageView(600, 400, int(600 * scale), int(400 * scale), "resized_pixels")
    right, bottom = 600.0 * scale, 400.0 * scale
    assert boxes_in_image([(0.0, 0.0, right + 1, bottom + 1)], view) == [(0, 0, 600, 400)]
    assert boxes_in_image([(0.0, 0.0, right + 2, bottom)], view) is None
    assert boxes_in_image([(-2.0, 0.0, right, bottom)], view) is None


def test_two_thousandths_past_the_edge_are_moved_back_where_sides_are_1() -> None:
    view = ImageView(640, 480, 320, 240, "unit")
    assert boxes_in_image([(-0.002, 0.0, 1.002, 1.0)], view) == [(0, 0, 640, 480)]
    assert boxes_in_image([(0.0, 0.0, 1.003, 1.0)], view) is None
    assert boxes_in_image([(156.0, 125.0, 1000.0, 1000.0)], view) is None


def test_fractions_where_the_frame_has_none_are_a_box_of_a_pixel() -> None:
    """Nothing guesses another frame: it overlaps with next to nothing."""
    sample = Sample("row-1", "grounding", ("image.png",), "Where?", "[100, 60, 640, 480]")
    for frame in ("grid_1000", "resized_pixels"):
        views = [ImageView(640, 480, 320, 240, frame)]
        said = gold_completion(TASKS["grounding"], sample, [ImageView(640, 480, 320, 240, "unit")])
        reward = score_completion(TASKS["grounding"], sample, said, views)
        assert (reward.status, reward.parts["iou"]) == ("ok", 0.0)


def test_a_small_box_keeps_an_area_where_sides_are_1() -> None:
    view = ImageView(4000, 3000, 640, 480, "unit")
    assert box_to_text((2001, 1501, 2002, 1502), view) == "[0.500, 0.500, 0.501, 0.501]"
    assert write_box((2001, 1501, 2002, 1502), view) == [0.5, 0.5, 0.501, 0.501]


ONE_GOLD, TWO_GOLD = "[100, 60, 640, 480]", "[[100, 60, 640, 480], [638, 0, 640, 3]]"
WRITTEN: dict[Frame, tuple[str, str]] = {
    "grid_1000": ("[x1, y1, x2, y2]", "[156, 125, 1000, 1000]"),
    "grid_1000_y_first": ("[y1, x1, y2, x2]", "[125, 156, 1000, 1000]"),
    "loc_1024": ("<locY1><locX1><locY2><locX2>", "<loc0128><loc0160><loc1023><loc1023>"),
    "unit": ("[x1, y1, x2, y2]", "[0.156, 0.125, 1.000, 1.000]"),
    "resized_pixels": ("[x1, y1, x2, y2]", "[50, 30, 320, 240]"),
}


@pytest.mark.parametrize("frame", WRITTEN)
@pytest.mark.parametrize(("task", "gold"), [("grounding", ONE_GOLD), ("grounding", TWO_GOLD), ("detection", TWO_GOLD)])
def test_boxes_are_asked_for_written_and_read_as_the_model_writes_them(frame: Frame, task: str, gold: str) -> None:
    views = [ImageView(640, 480, 320, 240, frame)]
    sample = Sample("row-1", task, ("image.png",), "Where?", gold)
    shape, written = WRITTEN[frame]
    assert shape in TASKS[task].ask(sample, views)
    assert written in TASKS[task].gold(sample, views)
    reward = score_completion(TASKS[task], sample, gold_completion(TASKS[task], sample, views), views)
    assert reward.parts["iou"] == 1.0
    if frame != "grid_1000_y_first":
        other = [ImageView(640, 480, 320, 240, "grid_1000_y_first")]
        swapped = score_completion(TASKS[task], sample, gold_completion(TASKS[task], sample, views), other)
        assert swapped.parts["iou"] < 0.95


NAMED = [
    '{{"ymin": {1}, "xmin": {0}, "ymax": {3}, "xmax": {2}}}',
    '{{"x1": {0}, "y1": {1}, "x2": {2}, "y2": {3}}}',
    "left: {0}, top: {1}, right: {2}, bottom: {3}",
    '[{{"bbox": {{"y1": {1}, "x1": {0}, "y2": {3}, "x2": {2}}}, "label": "cat"}}]',
    '{{"top_left": {{"x": {0}, "y": {1}}}, "bottom_right": {{"y": {3}, "x": {2}}}}}',
]


@pytest.mark.parametrize("form", NAMED)
@pytest.mark.parametrize("frame", WRITTEN)
@pytest.mark.parametrize("task", ["grounding", "detection"])
def test_names_of_corners_go_before_the_order_of_a_frame(frame: Frame, task: str, form: str) -> None:
    view = ImageView(640, 480, 320, 240, frame)
    numbers = write_box((100, 60, 640, 480), view)
    answer = form.format(*([numbers[1], numbers[0], numbers[3], numbers[2]] if view.is_y_first else numbers))
    sample = Sample("row-1", task, ("image.png",), "Where?", "[[100, 60, 640, 480]]")
    reward = score_completion(TASKS[task], sample, f"<think>-</think><answer>{answer}</answer>", [view])
    assert reward.parts["iou"] == 1.0
    corners = f'{{"top_left": {numbers[:2]}, "bottom_right": {numbers[2:]}}}'
    for listed in (f'{{"box_2d": {numbers}}}', corners):
        reward = score_completion(TASKS[task], sample, f"<think>-</think><answer>{listed}</answer>", [view])
        assert reward.parts["iou"] == 1.0, "a list is in the order of the frame"


IN_NOTATION: dict[Notation, tuple[str, str]] = {
    "list": ("one box [x1, y1, x2, y2] on", "boxes [[x1, y1, x2, y2], ...] on"),
    "lists": ("one box [[x1, y1, x2, y2]] on", "boxes [[x1, y1, x2, y2], ...] on"),
    "bbox_2d": ('one box {"bbox_2d": [x1, y1, x2, y2]} on', 'boxes [{"bbox_2d": [x1, y1, x2, y2]}, ...] on'),
    "box_tags": ("one box <box>x1 y1 x2 y2</box> on", "boxes [<box>x1 y1 x2 y2</box>, ...] on"),
}


@pytest.mark.parametrize("notation", IN_NOTATION)
@pytest.mark.parametrize("gold", [ONE_GOLD, TWO_GOLD, "[[100, 60, 640, 480]]"])
def test_boxes_are_asked_for_and_written_in_the_notation_of_the_model(notation: Notation, gold: str) -> None:
    """And the gold earns full marks, also from a model of another notation; of a list, a single box is one."""
    task, is_one = TASKS["grounding"], gold == ONE_GOLD
    sample = Sample("row-1", "grounding", ("image.png",), "Where?", gold)
    views = [ImageView(640, 480, 320, 240, "grid_1000", notation=notation)]
    asked = task.ask(sample, views)
    assert IN_NOTATION[notation][0 if is_one else 1] in asked
    opening = asked.partition("x1")[0].rpartition(" ")[2] if notation != "bbox_2d" else '"bbox_2d": ['
    assert opening in task.gold(sample, views)
    for reader in IN_NOTATION:
        others = [ImageView(640, 480, 320, 240, "grid_1000", notation=reader)]
        assert score_completion(task, sample, gold_completion(task, sample, views), others).parts["iou"] == 1.0


def test_location_tokens_and_detections_have_no_other_notation() -> None:
    sample = Sample("row-1", "grounding", ("image.png",), "Where?", ONE_GOLD)
    views = [ImageView(640, 480, 320, 240, "loc_1024", notation="bbox_2d")]
    assert TASKS["grounding"].gold(sample, views) == WRITTEN["loc_1024"][1]
    views = [ImageView(640, 480, 320, 240, "grid_1000", notation="bbox_2d")]
    assert "bbox_2d" not in TASKS["detection"].ask(sample, views) + TASKS["detection"].gold(sample, views)


@pytest.mark.parametrize("task", ["grounding", "detection"])
def test_no_box_is_asked_for_in_a_frame_that_is_not_known(task: str) -> None:
    sample = Sample("row-1", task, ("image.png",), "Where?", TWO_GOLD)
    with pytest.raises(ValueError, match=r"model\.frame"):
        TASKS[task].ask(sample, [ImageView(640, 480, 896, 896, None)])


def test_location_tokens_are_no_boxes_where_the_model_writes_numbers() -> None:
    sample = Sample("row-1", "grounding", ("image.png",), "Where?", ONE_GOLD)
    written = WRITTEN["loc_1024"][1]
    assert TASKS["grounding"].read(written, sample, [ImageView(640, 480, 224, 224, "loc_1024")])
    assert TASKS["grounding"].read(written, sample, [ImageView(640, 480, 224, 224, "grid_1000")]) is None


BOX, TWO = "[10, 10, 50, 50]", "[[10, 10, 50, 50], [1, 1, 9, 9]]"


@pytest.mark.parametrize("tail", ["x", " x", " cats", ", dogs", ' "cat"', " and more"])
@pytest.mark.parametrize("boxes", [BOX, TWO, f"{BOX} {BOX}", f"({BOX})", f'{{"bbox": {BOX}}}'])
def test_words_after_the_boxes_are_refused(boxes: str, tail: str) -> None:
    assert parse_answered(boxes + tail) is None


@pytest.mark.parametrize("text", [f"the cat: {BOX}", f"{BOX} (the cat)", f"cat {BOX}, dog {BOX}", f"{TWO} (cats)"])
def test_names_before_the_boxes_and_in_brackets_are_read(text: str) -> None:
    assert parse_answered(text) is not None
