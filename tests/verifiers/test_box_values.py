"""More notations of boxes, each read as its own box, and what is near them and is none."""

from __future__ import annotations

import pytest

from gpg_vl.verifiers.box_text import parse_boxes, parse_detections

ONE, OTHER = (100, 120, 500, 540), (1, 2, 30, 40)
FORMS = [
    "<bbox_2d>{}, {}, {}, {}</bbox_2d>",
    "<bbox_2d>[{}, {}, {}, {}]</bbox_2d>",
    "<rect>{} {} {} {}</rect>",
    "<point>{} {}</point><point>{} {}</point>",
    "<loc_{}><loc_{}><loc_{}><loc_{}>",
    "{{{}, {}, {}, {}}}",
    "[[[{}, {}, {}, {}]]]",
    '{{"bbox_2d": [[{}, {}, {}, {}]]}}',
    '{{"answer": [{}, {}, {}, {}]}}',
    '{{"bounding_box": {{"x1": {}, "y1": {}, "x2": {}, "y2": {}}}}}',
    '{{"top_left": {{"x": {}, "y": {}}}, "bottom_right": {{"x": {}, "y": {}}}}}',
    '{{"cat": [[{}, {}, {}, {}]]}}',
    "Position: [{}, {}, {}, {}], Confidence: 0.9",
]


@pytest.mark.parametrize("form", FORMS)
def test_each_notation_gives_its_box(form: str) -> None:
    for box in ONE, OTHER:
        assert parse_boxes(form.format(*box)) == [tuple(map(float, box))]


@pytest.mark.parametrize(
    "form",
    [
        "{} {} {} {}\n{} {} {} {}",
        "{}, {}, {}, {}\n{}, {}, {}, {}",
        '{{"cat": [[{}, {}, {}, {}], [{}, {}, {}, {}]]}}',
        '{{"cat": [[{}, {}, {}, {}]], "dog": [{}, {}, {}, {}]}}',
        '{{"bbox_2d": [[{}, {}, {}, {}], [{}, {}, {}, {}]]}}',
        "[[[{}, {}, {}, {}], [{}, {}, {}, {}]]]",
        "<point>{} {}</point><point>{} {}</point> <point>{} {}</point><point>{} {}</point>",
    ],
)
def test_two_boxes_are_two(form: str) -> None:
    assert parse_boxes(form.format(*ONE, *OTHER)) == [tuple(map(float, box)) for box in (ONE, OTHER)]


@pytest.mark.parametrize(
    "text",
    [
        "1 2 30\n1 2 30 40",
        "1 2 30 40\nor 1 2 30 41",
        "<rect>1 2 30 40",
        "<rect>1 2 30 40</bbox_2d>",
        "<loc_1><loc_2><loc_30>",
        "{1, 2, 30}",
        "[[[1, 2, 30, 40]], [1, 2, 3, 4]]",
        '{"cat": [[1, 2, 30, 40]], "n": 3}',
        '{"bbox_2d": [[1, 2, 30, 40]], "confidence": 0.5}',
        '{"top_left": {"x": 1, "z": 2}, "bottom_right": {"x": 30, "y": 40}}',
        '{"bbox": {"x1": 1, "y1": 2, "x2": 30, "y2": 40, "x": 9}}',
    ],
)
def test_near_them_stands_no_box(text: str) -> None:
    assert parse_boxes(text) is None


@pytest.mark.parametrize(
    "text", ["[{'Position': [1, 2, 30, 40], 'Confidence': 90%}]", "Position: [1, 2, 30, 40], Confidence: 90%"]
)
def test_confidence_in_per_cent_without_quotes(text: str) -> None:
    found = parse_detections(text)
    assert found is not None and [detection.confidence for detection in found] == [0.9]
    assert parse_detections(text.replace("90%", "190%")) is None
    assert parse_detections(text.replace("90%", "9")) is None


@pytest.mark.parametrize("text", ['{"objects": []}', "No objects are present in the image.", "No objects in the image"])
def test_nothing_is_an_answer(text: str) -> None:
    assert parse_detections(text) == []


@pytest.mark.parametrize(
    "text", ["No objects are on the left", '{"objects": [[]]}', '{"n": []}', "No objectsin the image"]
)
def test_what_is_no_nothing(text: str) -> None:
    assert parse_detections(text) is None
