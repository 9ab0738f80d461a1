import pytest

from gpg_vl.verifiers.box_text import DetectedBox, parse_boxes, parse_detections
from gpg_vl.verifiers.box_values import MAX_BOXES
from tests.support.clock import takes_less_than

BOX = (1.0, 2.0, 30.0, 40.0)
OTHER = (5.0, 6.0, 7.0, 8.0)


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2, 30, 40]",
        "(1,2),(30,40)",
        "[[1, 2, 30, 40]]",
        "<|box_start|>(1,2),(30,40)<|box_end|>",
        "<|box_start|>[1, 2, 30, 40]<|box_end|>",
        "<|object_ref_start|>the cat<|object_ref_end|><|box_start|>(1,2),(30,40)<|box_end|>",
        '[{"bbox_2d": [1, 2, 30, 40], "label": "cat"}]',
        '{"bbox_2d": [1, 2, 30, 40], "label": "the cat\'s"}',
        '```json\n[\n\t{"bbox_2d": [1, 2, 30, 40], "label": "cat"}\n]\n```',
        "```\n[1, 2, 30, 40]\n```",
        "[{'Position': [1, 2, 30, 40], 'Confidence': 0.5}]",
    ],
)
def test_ways_to_write_a_box(text: str) -> None:
    assert parse_boxes(text) == [BOX]


@pytest.mark.parametrize(
    "text",
    [
        "[[1, 2, 30, 40], [5, 6, 7, 8]]",
        '[{"bbox_2d": [1, 2, 30, 40], "label": "a"}, {"bbox_2d": [5, 6, 7, 8], "label": "b"}]',
        "<|box_start|>(1,2),(30,40)<|box_end|><|box_start|>(5,6),(7,8)<|box_end|>",
        "<|box_start|>(1,2),(30,40)<|box_end|>, <|box_start|>(5,6),(7,8)<|box_end|>",
    ],
)
def test_ways_to_write_two_boxes(text: str) -> None:
    assert parse_boxes(text) == [BOX, OTHER]


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", "null", "1", "[1, 2, 30]", "[[1, 2, 30]]", "[1, 2, 30, 40] or [5, 6, 7, 8]"),
        *("[[[1, 2, 30]]]", "[1, 2, 30, true]", '[1, 2, 30, "40"]', "[NaN, 2, 30, 40]", "[[1, 2, 30, 1e999]]"),
        *("[[1, 2, 30, -Infinity]]", "[[1, 2, 30, " + "9" * 40 + "]]", "[" * 5000, '{"a":' * 5000),
        *("<|box_start|>(1,2),(30,40)", "not <|box_start|>(1,2),(30,40)<|box_end|>", "<|box_start|><|box_end|>"),
        *("<|box_start|>(1,2),(30,40)<|box_end|> or so", "(1,2),(30,40) (5,6)", "No Objects"),
        *('{"bbox_2d": [1, 2, 30, 40], "bbox_2d": [5, 6, 7, 8]}', "[[]]", "[{}]"),
        *(
            '{"bbox_2d": [1, 2, 30, 40], "label": "cat", "label": "dog"}',
            "[{'box': [1, 2, 3, 4], 'box': [1, 2, 3, 4]}]",
        ),
        *('{"bbox_2d": [1, 2, 30, 40], "Position": [5, 6, 7, 8]}', '[{"label": "cat"}]', '{"bbox_2d": null}'),
        "[" + "[1, 2, 30, 40], " * MAX_BOXES + "[1, 2, 30, 40]]",
    ],
)
def test_everything_else_is_no_boxes(text: str) -> None:
    assert parse_boxes(text) is None


def test_at_most_six_brackets_deep() -> None:
    for depth, found in ((4, [BOX]), (5, None)):
        label = "[" * depth + '"cat"' + "]" * depth
        assert parse_boxes(f'[{{"bbox_2d": [1, 2, 30, 40], "label": {label}}}]') == found


def test_detections() -> None:
    assert parse_detections("[{'Position': [1, 2, 30, 40], 'Confidence': 0.25}]") == [DetectedBox(BOX, 0.25)]
    assert parse_detections('[{"bbox_2d": [1, 2, 30, 40]}]') == [DetectedBox(BOX, 1.0)]
    assert parse_detections("No Objects") == parse_detections("no objects.") == []
    assert parse_detections("[]") == parse_detections("```json\n[ ]\n```") == []


@pytest.mark.parametrize("confidence", ["5", "-0.1", "NaN", "1e999", "'high'", "null", "true", "[1]"])
def test_confidence_is_a_share(confidence: str) -> None:
    assert parse_detections(f"[{{'Position': [1, 2, 30, 40], 'Confidence': {confidence}}}]") is None


@pytest.mark.parametrize("piece", ["[", "[1,", " ", "'", "<|box_start|>", "<|object_ref_start|>", ",", "9"])
def test_hostile_text_is_fast(piece: str) -> None:
    def read() -> None:
        for closing in ("", "<|box_start|><|box_end|>", "]"):
            assert parse_boxes((piece * 32_768)[:32_700] + closing) is None

    assert takes_less_than(0.1, read)
