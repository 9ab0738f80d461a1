"""Reads boxes as models write them: lists, corner pairs, JSON objects, and the soft tokens of some families.

Text that a model wrote: every function is total, bounded, linear in the length of the text, and evaluates nothing.
Numbers come back in the frame that the model speaks.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from gpg_vl.records import Box

MAX_CHARS = 32_768
MAX_BOXES = 300  # of one answer; LVIS counts as many
MAX_DEPTH = 4  # of brackets
NO_OBJECTS = "No Objects"

_NUMBER = r"\s{0,64}([+-]?[0-9]{1,9}(?:\.[0-9]{1,18})?)\s{0,64}"
_LIST = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")
_CORNERS = re.compile(rf"\({_NUMBER},{_NUMBER}\)\s{{0,64}},\s{{0,64}}\({_NUMBER},{_NUMBER}\)")
_EMPTY_LIST = re.compile(r"\[\s*\]")
_SOFT_NAME = re.compile(r"<\|object_ref_start\|>[^<]*<\|object_ref_end\|>")
_GAP = re.compile(r"[\s,]*")
_SOFT_OPEN, _SOFT_CLOSE = "<|box_start|>", "<|box_end|>"
_BOX_KEYS = ("bbox_2d", "Position", "position", "bbox", "box")
_CONFIDENCE_KEYS = ("Confidence", "confidence", "score")


@dataclass(frozen=True, slots=True)
class Detection:
    """A box and how sure the model is of it, in [0, 1]."""

    box: Box
    confidence: float


def parse_box(text: str) -> Box | None:
    """The one box that the text is, in any order of its corners; whitespace aside, nothing else may stand.

    >>> parse_box("[1, 2, 30.5, 40]"), parse_box("(1,2),(30,40)"), parse_box("[1, 2, 30]")
    ((1.0, 2.0, 30.5, 40.0), (1.0, 2.0, 30.0, 40.0), None)
    """
    stripped = text.strip() if len(text) <= MAX_CHARS else ""
    match = _LIST.fullmatch(stripped) or _CORNERS.fullmatch(stripped)
    if match is None:
        return None
    x1, y1, x2, y2 = map(float, match.groups())
    return (x1, y1, x2, y2)


def parse_boxes(text: str) -> list[Box] | None:
    """The boxes that the text is, one or several, without their confidences; None where it is anything else.

    >>> parse_boxes("[[1, 2, 3, 4], [5, 6, 7, 8]]")
    [(1.0, 2.0, 3.0, 4.0), (5.0, 6.0, 7.0, 8.0)]
    >>> parse_boxes("<|box_start|>(1,2),(3,4)<|box_end|>"), parse_boxes('```json\\n[{"bbox_2d": [1, 2, 3, 4]}]\\n```')
    ([(1.0, 2.0, 3.0, 4.0)], [(1.0, 2.0, 3.0, 4.0)])
    """
    detections = parse_detections(text)
    return [detection.box for detection in detections] if detections else None


def parse_detections(text: str) -> list[Detection] | None:
    """The boxes with their confidences (1 where none is written); [] for ``No Objects`` and ``[]``; None for neither.

    >>> parse_detections("[{'Position': [1, 2, 3, 4], 'Confidence': 0.5}]")
    [Detection(box=(1.0, 2.0, 3.0, 4.0), confidence=0.5)]
    """
    if len(text) > MAX_CHARS:
        return None
    body = _without_fence(text.strip())
    if body.removesuffix(".").casefold() == NO_OBJECTS.casefold() or _EMPTY_LIST.fullmatch(body):
        return []
    box = parse_box(body)
    if box is not None:
        return [Detection(box, 1.0)]
    found = _read_soft_tokens(body) if _SOFT_OPEN in body else _read_json(body)
    return found if found and len(found) <= MAX_BOXES else None


def _without_fence(text: str) -> str:
    if not text.startswith("```") or not text.endswith("```") or len(text) < 6:
        return text
    return text[3:-3].removeprefix("json").strip()


def _read_soft_tokens(text: str) -> list[Detection] | None:
    """Soft-token boxes, each with or without the name of its object before it, and nothing else but commas."""
    *chunks, rest = _SOFT_NAME.sub("", text).split(_SOFT_CLOSE)
    if not _is_gap(rest):
        return None
    found = []
    for chunk in chunks:
        gap, opening, content = chunk.partition(_SOFT_OPEN)
        box = parse_box(content) if opening and _is_gap(gap) else None
        if box is None:
            return None
        found.append(Detection(box, 1.0))
    return found


def _is_gap(text: str) -> bool:
    return _GAP.fullmatch(text) is not None


def _read_json(text: str) -> list[Detection] | None:
    """A JSON list of boxes or of objects with a box; single quotes, as Python writes them, stand for double ones."""
    content = _load_json(text if '"' in text else text.replace("'", '"'))
    entries = content if isinstance(content, list) else [content]
    found = [_read_entry(entry) for entry in entries[: MAX_BOXES + 1]]
    return None if None in found else [detection for detection in found if detection is not None]


def _load_json(text: str) -> Any:
    if not text.startswith(("[", "{")) or _depth(text) > MAX_DEPTH:
        return None
    try:
        return json.loads(
            text,
            parse_int=_read_number,
            parse_float=_read_number,
            parse_constant=_read_number,
            object_pairs_hook=_distinct_keys,
        )
    except ValueError:
        return None


def _depth(text: str) -> int:
    depth = deepest = 0
    for char in text:
        depth += (char in "[{") - (char in "]}")
        deepest = max(deepest, depth)
    return deepest


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entry = dict(pairs)
    if len(entry) < len(pairs):
        raise ValueError("a key stands twice")
    return entry


def _read_number(literal: str) -> float:
    value = float(literal) if len(literal) <= 32 else math.nan
    if not math.isfinite(value):
        raise ValueError(f"no usable number: {literal[:40]}")
    return value


def _read_entry(entry: Any) -> Detection | None:
    if not isinstance(entry, dict):
        box = _read_corners(entry)
        return None if box is None else Detection(box, 1.0)
    box = _read_corners(_only(entry, _BOX_KEYS, None))
    confidence = _only(entry, _CONFIDENCE_KEYS, 1.0)
    if box is None or not isinstance(confidence, float) or not 0 <= confidence <= 1:
        return None
    return Detection(box, confidence)


def _only(entry: dict[str, Any], keys: tuple[str, ...], default: Any) -> Any:
    """The value under the one of the keys that is there; None where several are."""
    values = [entry[key] for key in keys if key in entry]
    return default if not values else values[0] if len(values) == 1 else None


def _read_corners(value: Any) -> Box | None:
    if not isinstance(value, list) or len(value) != 4 or not all(isinstance(number, float) for number in value):
        return None
    x1, y1, x2, y2 = value
    return (x1, y1, x2, y2)
