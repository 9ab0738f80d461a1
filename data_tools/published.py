"""Fields as the published data sets write them: images in the row, a question, a tagged solution, boxes of pixels."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from data_tools.conversion import DropRow
from gpg_vl.records import Box
from gpg_vl.verifiers.answers import strip_answer_tags
from gpg_vl.verifiers.boxes import clip_box, is_inside, is_ordered

MAX_COORDINATE = 1e6  # pixels; no image that the kit opens has so long a side
EDGE_TOLERANCE = 2.0  # pixels that rounding moves a corner by, in COCO itself and on the grid of 1000


def read_image(value: Any) -> bytes:
    """The bytes of an image of a Parquet row: an Image feature, or a column of bytes.

    Raises:
        ValueError: there are none
    """
    content = value.get("bytes") if isinstance(value, Mapping) else value
    if not isinstance(content, bytes):
        raise ValueError(f"the image is a {type(content).__name__}, not the bytes of a file")
    return content


def read_string(values: Mapping[str, Any], name: str) -> str:
    """A column of text, without white space around.

    Raises:
        ValueError: it is no text or empty; names the column
    """
    value = values.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} is {str(value)[:40]!r}, not text")
    return value.strip()


def read_list(values: Mapping[str, Any], name: str) -> list[str]:
    """A column of a list of texts.

    Raises:
        ValueError: it is no list of texts, or empty; names the column
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
    """``num`` finite numbers of a list; ``name`` is what they are, for the message.

    Raises:
        ValueError: it is no list of so many numbers
    """
    is_list = isinstance(value, list) and len(value) == num
    if not is_list or not all(type(each) in (int, float) and abs(each) < MAX_COORDINATE for each in value):
        raise ValueError(f"{name} is {str(value)[:60]!r}, not {num} numbers")
    return tuple(map(float, value))


def cut_at_edges(box: Box, size: tuple[int, int], tolerance: float = math.inf) -> Box:
    """The part of a box of pixels that is in the image.

    Args:
        size: width and height of the image
        tolerance: a corner further out than this many pixels means that the box is of another frame or picture

    Raises:
        DropRow: no part is in the image, or a corner is too far out
    """
    width, height = size
    cut = clip_box(box, width, height)
    if not all(map(math.isfinite, box)) or not is_ordered(cut) or not is_inside(box, width, height, tolerance):
        raise DropRow("a box is outside of its image", f"{list(box)} in {width} x {height} pixels")
    return cut


def write_pixels(boxes: Sequence[Box]) -> str:
    """One box as ``[x1, y1, x2, y2]``, several as a list of them; in original pixels, to four places."""
    rounded = [[round(edge, 4) for edge in box] for box in boxes]
    return json.dumps(rounded[0] if len(rounded) == 1 else rounded)
