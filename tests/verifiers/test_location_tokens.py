from __future__ import annotations

import pytest

from gpg_vl.records import Box
from gpg_vl.verifiers.box_text import parse_answered
from gpg_vl.verifiers.location_tokens import locations_to_numbers, numbers_to_locations

ONE, OTHER = "<loc0102><loc0051><loc0819><loc1023>", "<loc0000><loc0001><loc0002><loc0003>"
BOX: Box = (102, 51, 819, 1023)
NEXT: Box = (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        (ONE, [BOX]),
        (f"{ONE} red shape", [BOX]),
        (f"{ONE} cat ; {OTHER} dog", [BOX, NEXT]),
        (f"{ONE} cat;{OTHER} cat", [BOX, NEXT]),
        (f"[{ONE}, {OTHER}]", [BOX, NEXT]),
        (f"[{{'Position': {ONE}, 'Confidence': 0.5}}]", [BOX]),
    ],
)
def test_boxes_of_location_tokens_are_read(text: str, boxes: list[Box]) -> None:
    found = parse_answered(locations_to_numbers(text))
    assert found is not None
    assert list(found.boxes) == boxes


@pytest.mark.parametrize(
    "text", [ONE[:-9], f"{ONE} or {OTHER}", f"{ONE}<loc0004>", f"not {ONE}", "<loc1>" * 4, f"{ONE} not a cat", ""]
)
def test_what_is_no_box_stays_none(text: str) -> None:
    assert parse_answered(locations_to_numbers(text)) is None


def test_written_tokens_are_read() -> None:
    assert numbers_to_locations([102, 51, 819, 1023]) == ONE
    assert locations_to_numbers(ONE) == "[102, 51, 819, 1023]"
