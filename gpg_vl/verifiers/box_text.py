"""Reads boxes as models write them, one function per notation.

Every function returns for any text, in time linear in its length, and evaluates nothing. Numbers come back in the
frame that the model uses, as x1, y1, x2, y2 in the order they are written. The kit's recipes never ask for width and
height instead of a second corner, so four numbers are always two corners.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gpg_vl.records import Box
from gpg_vl.verifiers.box_values import (
    MAX_BOXES,
    MAX_CHARS,
    OUT_OF_RANGE,
    Answered,
    parse_box,
    read_object,
    read_sequence,
    read_simple,
    read_value,
)
from gpg_vl.verifiers.literals import MAY_BE_VALUE, NotLiteralError, load_json, parse_literals
from gpg_vl.verifiers.sentences import readings

NO_OBJECTS = "No Objects"

_NOTHING = re.compile(
    r"(?:there (?:are|is|were) |i (?:can )?see )?(?:no|zero|0) (?:such |matching |relevant |visible )?"
    r"(?:objects?|boxes|box|instances?|detections?|targets?|items?)"
    r"(?: (?:are |is |were |was )?(?:found|detected|present|visible|here|exists?))?"
    r"(?: (?:are |is |were |was )?in th(?:e|is) (?:image|picture))?"
    r"|none(?: found| detected)?|nothing(?: found| detected)?"
    r"|没有(?:检测到|发现|找到)?(?:任何)?(?:物体|目标|对象)?|无(?:物体|目标|对象)?",
    re.IGNORECASE,
)
_EMPTY = frozenset(["[]", "{}", "[[]]"])
_KEY = re.compile(r"[\"']?(?:bbox_2d|box_2d|bbox2d|bbox|bounding_box)[\"']?\s{0,4}[:=]\s{0,4}", re.IGNORECASE)
_CHANGING_WORDS_TEXT = """
or either not no never neither nor wrong incorrect except unlike maybe false
"""
_CHANGING_WORDS = frozenset(_CHANGING_WORDS_TEXT.split())

_ROW = re.compile(
    r"[ \t]{0,8}"
    + r"(?:[ \t]{0,4},[ \t]{0,4}|[ \t]{1,4})".join([r"([0-9]{1,9}(?:\.[0-9]{1,9})?)"] * 4)
    + r"[ \t]{0,8},?"
)
_FIRST_KEY = re.compile(
    r"[\"']?(?:position|bbox_2d|bbox|box|confidence|score|[xy]_?(?:min|max|[0-2])|left|top)[\"']?\s{0,4}[:=]",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class DetectedBox:
    """A box and how sure the model is of it, in [0, 1]."""

    box: Box
    confidence: float


def parse_boxes(text: str) -> list[Box] | None:
    """The boxes that the text is, one or several, without their confidences; None if it is anything else.

    >>> parse_boxes("[[1, 2, 3, 4], [5, 6, 7, 8]]")
    [(1.0, 2.0, 3.0, 4.0), (5.0, 6.0, 7.0, 8.0)]
    >>> parse_boxes("<|box_start|>(1,2),(3,4)<|box_end|>"), parse_boxes('```json\\n[{"bbox_2d": [1, 2, 3, 4]}]\\n```')
    ([(1.0, 2.0, 3.0, 4.0)], [(1.0, 2.0, 3.0, 4.0)])
    """
    found = parse_answered(text)
    return list(found.boxes) if found is not None and found.boxes else None


def parse_detections(text: str) -> list[DetectedBox] | None:
    """The boxes with their confidences (1 if none is written); [] for ``No Objects`` and ``[]``; None for neither.

    >>> parse_detections("[{'Position': [1, 2, 3, 4], 'Confidence': 0.5}]")
    [DetectedBox(box=(1.0, 2.0, 3.0, 4.0), confidence=0.5)]
    """
    found = parse_answered(text)
    if found is None:
        return None
    pairs = zip(found.boxes, found.confidences, strict=True)
    detections = [DetectedBox(box, confidence) for box, confidence in pairs if confidence is not None]
    return detections if len(detections) == len(found.boxes) else None


def parse_answered(text: str) -> Answered | None:
    """Every box of an answer; empty for ``No Objects`` and an empty list; None if the text is anything else."""
    if len(text) > MAX_CHARS:
        return None
    box = parse_box(text)
    if box is not None:
        return Answered((box,), (1.0,), is_list=False)
    for body in readings(text):
        found = _read_body(body)
        if found is not None:
            return found if len(found.boxes) <= MAX_BOXES and OUT_OF_RANGE not in found.confidences else None
    return None


def _read_body(body: str) -> Answered | None:
    if "".join(body[:64].split()) in _EMPTY or _NOTHING.fullmatch(body):
        return Answered((), (), is_list=True)
    return next(filter(None, (reader(body) for reader in _NOTATIONS)), None)


def _read_json(text: str) -> Answered | None:
    """JSON: a box, an object with one, a list of either, or an object that holds such a list."""
    if not text.startswith(("[", "{")):
        return None
    try:
        return read_value(load_json(text))
    except NotLiteralError:
        return None


def _read_literals(text: str) -> Answered | None:
    """Any other notation with brackets or tags: Python, several values without a list, names before boxes, points."""
    if MAY_BE_VALUE.search(text) is None:
        return None
    try:
        found = parse_literals(text if "{" in text else _KEY.sub(" ", text, count=1))
    except NotLiteralError:
        return None
    if not found.values or found.last_words or any(word.casefold() in _CHANGING_WORDS for word in found.words):
        return None
    return read_sequence(found)


def _read_rows(text: str) -> Answered | None:
    """Four numbers on each of several lines."""
    lines = text.split("\n") if "\n" in text else []
    if not 2 <= len(lines) <= MAX_BOXES or len(text) > MAX_BOXES * 80:
        return None
    rows = [_ROW.fullmatch(line) for line in lines]
    boxes = tuple(_box_of(row) for row in rows if row is not None)
    return Answered(boxes, (1.0,) * len(boxes), is_list=False) if len(boxes) == len(lines) else None


def _box_of(match: re.Match[str]) -> Box:
    x1, y1, x2, y2 = map(float, match.groups())
    return (x1, y1, x2, y2)


def _read_keys(text: str) -> Answered | None:
    """``Position: [1, 2, 3, 4], Confidence: 0.9``: an object without its braces."""
    if _FIRST_KEY.match(text) is None:
        return None
    try:
        value = parse_literals("{" + text + "}").values
    except NotLiteralError:
        return None
    return read_object(value[0]) if len(value) == 1 and isinstance(value[0], dict) and len(value[0]) > 1 else None


_NOTATIONS = (read_simple, _read_json, _read_keys, _read_rows, _read_literals)
