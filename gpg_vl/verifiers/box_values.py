"""What boxes look like once their text is parsed: lists, points, objects with keys, tagged numbers.

Numbers come back in the frame that the model uses, in the order they are written; where names tell x from y, x first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from gpg_vl.records import Box, ImageView
from gpg_vl.verifiers.literals import Literals, Tagged, Word

MAX_CHARS = 32_768
OUT_OF_RANGE = -1.0
"""Stands for a confidence outside [0, 1]: such an answer cannot be read."""
MAX_BOXES = 300  # of one answer, as in the metric of LVIS

_NUMBER = r"\s{0,64}([+-]?[0-9]{1,9}(?:\.[0-9]{1,18})?)\s{0,64}"
_LIST = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")
_CORNERS = re.compile(rf"\({_NUMBER},{_NUMBER}\)\s{{0,64}},\s{{0,64}}\({_NUMBER},{_NUMBER}\)")
_ROUND_OR_BARE = re.compile(rf"\(?{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\)?")
_BOX_KEYS_TEXT = """
bbox2d bbox box box2d position boundingbox boundingbox2d coordinates coordinate coords location bndbox region
rectangle rect
"""
_BOX_KEYS = frozenset(_BOX_KEYS_TEXT.split())
_LIST_KEYS_TEXT = """
objects detections results result boxes bboxes predictions annotations answer output instances items
"""
_LIST_KEYS = frozenset(_LIST_KEYS_TEXT.split())
_CONFIDENCE_KEYS = frozenset(["confidence", "score", "conf", "probability", "prob", "certainty"])
_FOUR_KEYS = (
    ("x1", "y1", "x2", "y2"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("left", "top", "right", "bottom"),
    ("x0", "y0", "x1", "y1"),
)
_TWO_KEYS = (("topleft", "bottomright"), ("p1", "p2"), ("start", "end"), ("min", "max"))
_PERCENT = re.compile(r"\s{0,8}([0-9]{1,3}(?:\.[0-9]{1,9})?)\s{0,4}%\s{0,8}")
_PLAIN = re.compile(r"\s{0,8}([0-9](?:\.[0-9]{0,18})?|\.[0-9]{1,18})\s{0,8}")


class NamedBox(NamedTuple):
    """A box whose numbers are named, so that they are in no frame's order."""

    x1: float
    y1: float
    x2: float
    y2: float

    def in_order_of(self, view: ImageView) -> Box:
        return (self.y1, self.x1, self.y2, self.x2) if view.is_y_first else self


def to_original(box: Box, view: ImageView) -> Box:
    """A box of an answer in original pixels; names go before the order of the view's frame."""
    return view.to_original(box.in_order_of(view) if isinstance(box, NamedBox) else box)


@dataclass(frozen=True, slots=True)
class Answered:
    """Boxes with their confidences (None if one is not a number), and whether they were written as a list."""

    boxes: tuple[Box, ...]
    confidences: tuple[float | None, ...]
    is_list: bool


def parse_box(text: str) -> Box | None:
    """The one box that the text is, in any order of its corners; nothing but whitespace may stand beside it.

    >>> parse_box("[1, 2, 30.5, 40]"), parse_box("(1,2),(30,40)"), parse_box("[1, 2, 30]")
    ((1.0, 2.0, 30.5, 40.0), (1.0, 2.0, 30.0, 40.0), None)
    """
    stripped = text.strip() if len(text) <= MAX_CHARS else ""
    match = _LIST.fullmatch(stripped) or _CORNERS.fullmatch(stripped)
    if match is None:
        return None
    x1, y1, x2, y2 = map(float, match.groups())
    return (x1, y1, x2, y2)


def read_simple(text: str) -> Answered | None:
    """``(1, 2, 3, 4)`` and ``1, 2, 3, 4``, and what one of the two plain notations holds after its wrappers."""
    match = _ROUND_OR_BARE.fullmatch(text)
    if match is not None and text.startswith("(") == text.endswith(")"):
        x1, y1, x2, y2 = map(float, match.groups())
        return Answered(((x1, y1, x2, y2),), (1.0,), is_list=False)
    box = parse_box(text)
    return None if box is None else Answered((box,), (1.0,), is_list=False)


def read_sequence(found: Literals) -> Answered | None:
    values = found.values
    box = _read_corners(list(values)) or _read_pairs(values)
    if box is not None:
        return box if isinstance(box, Answered) else Answered((box,), (1.0,), is_list=False)
    if len(values) == 1:
        return read_value(values[0])
    entries = [read_value(value) for value in values[: MAX_BOXES + 1]]
    return _join([entry for entry in entries if entry is not None], len(entries), is_list=False)


def _read_pairs(values: Sequence[Any]) -> Answered | None:
    """Points one after the other, two for a box: ``(1,2),(3,4) (5,6),(7,8)``."""
    if len(values) < 2 or len(values) % 2 or len(values) > 2 * MAX_BOXES or not all(map(_is_point, values)):
        return None
    boxes = tuple((*first, *second) for first, second in zip(values[::2], values[1::2], strict=True))
    return Answered(boxes, (1.0,) * len(boxes), is_list=False)


def _join(entries: Sequence[Answered], wanted: int, is_list: bool) -> Answered | None:
    if len(entries) != wanted or not all(entry.boxes for entry in entries):
        return None
    boxes = tuple(box for entry in entries for box in entry.boxes)
    confidences = tuple(each for entry in entries for each in entry.confidences)
    return Answered(boxes, confidences, is_list)


def read_value(value: Any) -> Answered | None:
    """One box, or the boxes of a list or an object."""
    if isinstance(value, Tagged):
        return _read_tagged(value)
    if isinstance(value, dict):
        return read_object(value)
    box = _read_corners(value)
    if box is not None:
        return Answered((box,), (1.0,), is_list=False)
    if not isinstance(value, list):
        return None
    holds_list = len(value) == 1 and isinstance(value[0], list) and _read_corners(value[0]) is None
    return read_value(value[0]) if holds_list else _read_list(value)


def _read_list(items: Sequence[Any]) -> Answered | None:
    entries = [_read_entry(item) for item in items[: MAX_BOXES + 1]]
    return _join([entry for entry in entries if entry is not None], len(entries), is_list=True) if entries else None


def _read_entry(item: Any) -> Answered | None:
    if isinstance(item, dict):
        return read_object(item)
    if isinstance(item, Tagged):
        return _read_tagged(item)
    box = _read_corners(item)
    return None if box is None else Answered((box,), (1.0,), is_list=False)


def _read_tagged(value: Tagged) -> Answered | None:
    """Between tags: four numbers, two corners, a box, or a list of boxes."""
    box = _read_corners(list(value.content))
    if box is not None:
        return Answered((box,), (1.0,), is_list=False)
    found = read_value(value.content[0]) if len(value.content) == 1 else _read_list(value.content)
    return found if found is None or len(found.boxes) > 1 else Answered(found.boxes, found.confidences, is_list=False)


def read_object(entry: Mapping[str, Any]) -> Answered | None:
    """An object with one box and its confidence, or with one list of such objects, or with boxes by name."""
    by_key = {_normalise_key(key): value for key, value in entry.items()}
    if len(by_key) < len(entry):
        return None
    lists = [value for key, value in by_key.items() if key in _LIST_KEYS and isinstance(value, list)]
    boxes = [_read_corners(_as_value(value)) for key, value in by_key.items() if key in _BOX_KEYS]
    corners = _read_four_keys(by_key)
    if corners is not None:
        boxes.append(corners)
    if len(lists) == 1 and not boxes:
        return read_value(lists[0]) if lists[0] else Answered((), (), is_list=True)
    listed = [value for key, value in by_key.items() if key in _BOX_KEYS and isinstance(value, list)]
    if len(boxes) == len(listed) == 1 and boxes[0] is None and not _CONFIDENCE_KEYS & set(by_key):
        return _read_list(listed[0])
    if not boxes and not lists:
        return _read_named(entry)
    if len(boxes) != 1 or boxes[0] is None or lists:
        return None
    return Answered((boxes[0],), (_read_confidence(by_key),), is_list=False)


def _normalise_key(key: str) -> str:
    return key.casefold().replace("_", "").replace("-", "").replace(" ", "")


def _read_named(entry: Mapping[str, Any]) -> Answered | None:
    """``{"the cat": [1, 2, 3, 4]}``: every value is a box, or a list of boxes."""
    values = list(entry.values())[: MAX_BOXES + 1]
    found = [read_value(value) for value in values if isinstance(value, list)]
    joined = _join([each for each in found if each is not None], len(values), is_list=False)
    return Answered(joined.boxes, joined.confidences, len(joined.boxes) > 1) if joined and joined.boxes else None


def _read_four_keys(by_key: Mapping[str, Any]) -> Box | None:
    for keys in _FOUR_KEYS:
        if all(key in by_key for key in keys):
            return _named(_read_corners([by_key[key] for key in keys]))
    for first, second in _TWO_KEYS:
        if first in by_key and second in by_key:
            points = [by_key[first], by_key[second]]
            corners = _read_corners([_as_point(point) for point in points])
            return _named(corners) if all(isinstance(point, dict) for point in points) else corners
    return None


def _named(box: Box | None) -> NamedBox | None:
    return None if box is None else NamedBox(*box)


def _as_value(value: Any) -> Any:
    """A box that is written as a string, or as an object of four corners."""
    if isinstance(value, dict):
        corners = _read_four_keys({_normalise_key(key): number for key, number in value.items()})
        return corners if len(value) <= 4 else None
    if not isinstance(value, str) or len(value) > 256:
        return value
    found = read_simple(value.strip())
    return list(found.boxes[0]) if found is not None else None


def _as_point(value: Any) -> Any:
    """``{"x": 1, "y": 2}`` as ``[1, 2]``."""
    return [value["x"], value["y"]] if isinstance(value, dict) and set(value) == {"x", "y"} else value


def _read_corners(value: Any) -> Box | None:
    """Four numbers, as numbers or all as strings, or two points; a box that is read already stays as it is."""
    if isinstance(value, tuple):
        return value
    if not isinstance(value, list):
        return None
    if len(value) == 2 and all(map(_is_point, value)):
        value = [*value[0], *value[1]]
    if len(value) != 4:
        return None
    if all(isinstance(number, str) for number in value):
        value = [_number_of(number) for number in value]
    if not all(isinstance(number, float) for number in value):
        return None
    x1, y1, x2, y2 = value
    return (x1, y1, x2, y2)


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(number, float) for number in value)


_WRITTEN = re.compile(_NUMBER)


def _number_of(text: str) -> float | None:
    match = _WRITTEN.fullmatch(text)
    return float(match[1]) if match is not None else None


def _read_confidence(by_key: Mapping[str, Any]) -> float | None:
    """In [0, 1], from a number, a string or a percentage; 1 where none is written, None for anything else."""
    given = [by_key[key] for key in by_key if key in _CONFIDENCE_KEYS]
    if len(given) != 1:
        return None if given else 1.0
    value = given[0]
    if isinstance(value, str):
        percent, plain = _PERCENT.fullmatch(value), _PLAIN.fullmatch(value)
        value = float(percent[1]) / 100 if percent is not None else float(plain[1]) if plain is not None else None
    if isinstance(value, Word) or not isinstance(value, float):
        return None
    return value if 0 <= value <= 1 else OUT_OF_RANGE
