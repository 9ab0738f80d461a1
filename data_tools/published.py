"""Reads fields of the published data sets: images in the row, a question, a tagged solution, boxes in pixels."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from data_tools.conversion import DropRow
from gpg_vl.records import Box
from gpg_vl.verifiers.answers import strip_answer_tags
from gpg_vl.verifiers.boxes import clip_box, is_inside, is_ordered

MAX_COORDINATE = 1e6  # pixels; longer than a side of any image that the kit opens
EDGE_TOLERANCE = 2.0  # pixels by which rounding can move a corner, in COCO itself and on the grid of 1000


def read_image(value: Any) -> bytes:
    """The bytes of an image in a Parquet row: an Image feature, or a column of bytes.

    Raises:
        ValueError: it has no bytes
    """
    content = value.get("bytes") if isinstance(value, Mapping) else value
    if not isinstance(content, bytes):
        raise ValueError(f"the image is a {type(content).__name__}, not the bytes of a file")
    return content


def read_string(values: Mapping[str, Any], name: str) -> str:
    """A text column, without surrounding white space.

    Raises:
        ValueError: it is not text, or empty; names the column
    """
    value = values.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} is {str(value)[:40]!r}, not text")
    return value.strip()


def read_list(values: Mapping[str, Any], name: str) -> list[str]:
    """A column with a list of texts.

    Raises:
        ValueError: it is not a list of texts, or empty; names the column
    """
    value = values.get(name)
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise ValueError(f"{name} is {str(value)[:40]!r}, not a list of texts")
    return value


def read_solution(values: Mapping[str, Any], name: str = "solution") -> str:
    """The text between the tags of ``<answer> 145° </answer>``.

    Raises:
        ValueError: there is none
    """
    answer = strip_answer_tags(read_string(values, name))
    if not answer:
        raise ValueError(f"{name} holds no answer")
    return answer


def read_numbers(value: Any, num: int, name: str) -> tuple[float, ...]:
    """A list of ``num`` finite numbers; ``name`` says in the message what they are.

    Raises:
        ValueError: it is not a list of ``num`` finite numbers
    """
    is_list = isinstance(value, list) and len(value) == num
    if not is_list or not all(type(each) in (int, float) and abs(each) < MAX_COORDINATE for each in value):
        raise ValueError(f"{name} is {str(value)[:60]!r}, not {num} numbers")
    return tuple(map(float, value))


def cut_at_edges(box: Box, size: tuple[int, int], tolerance: float = math.inf) -> Box:
    """The part of a box in pixels that is inside the image.

    Args:
        size: width and height of the image
        tolerance: if a corner is further out than this many pixels, the box belongs to another frame or picture

    Raises:
        DropRow: no part is in the image, or a corner is too far out
    """
    width, height = size
    cut = clip_box(box, width, height)
    if not all(map(math.isfinite, box)) or not is_ordered(cut) or not is_inside(box, width, height, tolerance):
        raise DropRow("a box is outside of its image", f"{list(box)} in {width} x {height} pixels")
    return cut


def write_pixels(boxes: Sequence[Box]) -> str:
    """One box as ``[x1, y1, x2, y2]``, several as a list of them; in original pixels, to four decimal places."""
    rounded = [[round(edge, 4) for edge in box] for box in boxes]
    return json.dumps(rounded[0] if len(rounded) == 1 else rounded)
