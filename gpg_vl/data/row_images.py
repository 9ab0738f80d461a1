"""The images of a row, in the forms in which rows have them -> a path, a URL or the bytes of an image file.

A form is a path, a URL, bytes, base64 with or without ``data:image/...;base64,``, or an object with one of these:
``{"bytes": ..., "path": ...}``, ``{"url": ...}``, ``{"type": "image", "image": ...}``. What is null is named, never
passed over: a picture that is lost must not make a row without pictures.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpg_vl.data.images import MAX_BYTES, find_image

_KEYS = ("bytes", "image", "image_url", "url", "path", "base64", "data", "file_name")
"""Of an object that is an image, the most certain first."""
_DATA_URL = re.compile(r"data:image/[\w.+-]{1,40};base64,", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")
_STARTS = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"RIFF", b"BM", b"GIF8", b"II*\0", b"MM\0*")
_SHORTEST = 64  # characters of an image as base64


def read_images(value: Any, root: Path | None, hosts: Collection[str]) -> tuple[str | bytes, ...]:
    """The images of one column: a list, or one image.

    Args:
        root: resolved folder that paths must stay in; None allows no paths
        hosts: hosts that images may be fetched from

    Raises:
        ValueError: an image is null, is in no known form, or lies elsewhere; names it
    """
    if value is None or value == "":
        raise ValueError("images is null: its picture may be lost; write [] if a row has no images")
    entries = listed(value)
    return tuple(_read(entry, number, root, hosts) for number, entry in enumerate(entries, start=1))


def listed(value: Any) -> list[Any]:
    """One image or video, or several; a list may also be JSON text, as in a column of a data frame."""
    if isinstance(value, str) and value.startswith("["):
        try:
            return list(json.loads(value))
        except (ValueError, TypeError, RecursionError):
            return [value]
    return value if isinstance(value, list) else [value]


def read_image_columns(values: Mapping[str, Any], root: Path | None, hosts: Collection[str]) -> tuple[str | bytes, ...]:
    """The images of several columns, in their order; a column that is null in this row has none.

    Raises:
        ValueError: all are null, or as ``read_images``
    """
    filled = {name: value for name, value in values.items() if value is not None and value != ""}
    if not filled:
        raise ValueError(f"images: {', '.join(values)} are all null: pictures may be lost; write [] if there are none")
    return tuple(image for value in filled.values() for image in read_images(value, root, hosts))


def refuse_lost_image(row: Mapping[str, Any], column: str, others: Sequence[str]) -> None:
    """Refuses a row with no image in ``column`` and one in another column of images.

    Raises:
        ValueError: names both columns
    """
    other = next((name for name in others if name != column and row.get(name) not in (None, "", [])), None)
    if row.get(column) in ([], "[]") and other is not None:
        raise ValueError(f"images: {column} is empty, but {other} has an image; keep one, or name it by columns.images")


def _read(entry: Any, number: int, root: Path | None, hosts: Collection[str]) -> str | bytes:
    found = _unwrap(entry)
    if isinstance(found, bytes):
        return found
    if not isinstance(found, str):
        kind = "null (NoneType)" if found is None else f"a {type(found).__name__}"
        raise ValueError(f"image {number} is {kind}; give a path, base64, or the bytes of an image file")
    if not found.strip():
        raise ValueError(
            f"image {number} is an empty text; give a path below data.image_root, base64, or the bytes of an image file"
        )
    content = _decode(found, number)
    return find_image(found, root, hosts) if content is None else content


def _unwrap(entry: Any) -> Any:
    """What an object that is an image holds; an object in it, as of ``{"image_url": {"url": ...}}``, is opened too."""
    for _ in range(3):
        if not isinstance(entry, Mapping):
            break
        entry = next((entry[key] for key in _KEYS if entry.get(key) is not None), None)
    return entry


def _decode(text: str, number: int) -> bytes | None:
    """The bytes that base64 stands for; None if the text is a path or a URL.

    Raises:
        ValueError: it is too long, or not base64 although it says so
    """
    opening = _DATA_URL.match(text)
    if opening is None and not _is_image_text(text):
        return None
    if len(text) > MAX_BYTES * 2:
        raise ValueError(f"image {number} has {len(text)} characters of base64, which is more than {MAX_BYTES} bytes")
    try:
        content = "".join(text[opening.end() if opening else 0 :].split())
        return base64.b64decode(content + "=" * (-len(content) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"image {number} is not base64; write the image again, or give its path") from error


def _is_image_text(text: str) -> bool:
    """Whether a text is base64 that begins as an image file does; a path has a dot, which base64 has not."""
    if len(text) < _SHORTEST or "." in text[:_SHORTEST]:
        return False
    try:
        start = base64.b64decode("".join(text[:32].split())[:16], validate=True)
    except (binascii.Error, ValueError):
        return False
    return start.startswith(_STARTS) and _BASE64.fullmatch(text) is not None
