"""Counts the parts of an image file before it is decoded: a few bytes can ask a decoder for hours.

Bytes and pixels are bounded elsewhere; what is counted here costs time beside them. A progressive JPEG decodes all
pixels again for each scan of some 30 bytes. Metadata are read entry by entry, and an entry may point to megabytes that
thousands of others point to as well.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

MAX_SCANS = 100  # of a JPEG; libjpeg-turbo advises 500 at most
MAX_SEGMENTS = 2_000  # of metadata: a JPEG's, a PNG's beside its pixels, a WebP's, a GIF's before its first frame
MAX_PIXEL_CHUNKS = 50_000  # of a PNG
MAX_TAGS = 2_000  # of a directory of EXIF or TIFF

_JPEG_MARKER = re.compile(rb"\xff+[^\x00\xff]")
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}  # TEM, restarts, start of image
_END, _SCAN, _EXIF, _MORE_PICTURES = 0xD9, 0xDA, 0xE1, 0xE2
_TAG_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


class CostlyFile(Exception):
    """The file has too many parts; the message says of what."""


def refuse_costly(data: bytes) -> None:
    """
    Raises:
        CostlyFile: decoding would take much longer than its bytes and pixels say
    """
    for start, check in _CHECKS.items():
        if data.startswith(start):
            check(data)


def refuse_costly_tags(block: bytes) -> None:
    """Checks the first directory of a block of EXIF or of a TIFF.

    Raises:
        CostlyFile: it has too many entries, or together they hold many times what there is
    """
    block = block.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None or len(block) < 8:
        return
    (start,) = struct.unpack_from(f"{order}I", block, 4)
    if start + 2 > len(block):
        return
    (count,) = struct.unpack_from(f"{order}H", block, start)
    if count > MAX_TAGS:
        raise CostlyFile(f"it has {count} tags of metadata, more than {MAX_TAGS}")
    room = min(count, (len(block) - start - 2) // 12)
    entries = [struct.unpack_from(f"{order}HHI", block, start + 2 + 12 * n) for n in range(room)]
    total = sum(min(_TAG_BYTES.get(kind, 1) * number, len(block)) for _, kind, number in entries)
    if total > 4 * len(block) + 2**16:
        raise CostlyFile(f"its metadata would take {total} bytes, out of {len(block)}")


def _refuse_many(num: int, most: int, what: str) -> None:
    if num > most:
        raise CostlyFile(f"it has more than {most} {what}")


def _check_jpeg(data: bytes) -> None:
    position, num_segments, num_scans = 2, 0, 0
    exif: list[bytes] = []
    while found := _JPEG_MARKER.search(data, position):
        marker, position = found[0][-1], found.end()
        if marker == _END:
            break
        if marker in _WITHOUT_LENGTH:
            continue
        num_segments += 1
        num_scans += marker == _SCAN
        _refuse_many(num_scans, MAX_SCANS, "scans")
        _refuse_many(num_segments, MAX_SEGMENTS, "segments")
        end = position + int.from_bytes(data[position : position + 2], "big")
        payload = data[position + 2 : end]
        if marker == _EXIF and payload.startswith(b"Exif\0\0"):
            exif.append(payload[6:])
        elif marker == _MORE_PICTURES and payload.startswith(b"MPF\0"):
            refuse_costly_tags(payload[4:])
        position = max(position, end)
    refuse_costly_tags(b"".join(exif))


def _check_png(data: bytes) -> None:
    position, num_pixels, num_others = 8, 0, 0
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        is_pixels = kind in (b"IDAT", b"fdAT")
        num_pixels, num_others = num_pixels + is_pixels, num_others + (not is_pixels)
        _refuse_many(num_pixels, MAX_PIXEL_CHUNKS, "chunks of pixels")
        _refuse_many(num_others, MAX_SEGMENTS, "chunks of metadata")
        if kind == b"eXIf":
            refuse_costly_tags(data[position + 8 : position + 8 + length])
        if kind == b"IEND":
            return
        position += 12 + length


def _check_riff(data: bytes) -> None:
    position, num = 12, 0
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        num += 1
        _refuse_many(num, MAX_SEGMENTS, "chunks")
        if kind == b"EXIF":
            refuse_costly_tags(data[position + 8 : position + 8 + length])
        position += 8 + length + length % 2


def _check_gif(data: bytes) -> None:
    """Up to the first frame: Pillow joins the comments before it one by one."""
    if len(data) < 13:
        return
    position = 13 + (3 * 2 ** (1 + data[10] % 8) if data[10] & 0x80 else 0)
    num = 0
    while position + 2 < len(data) and data[position] == 0x21:
        position += 2
        while position < len(data) and data[position]:
            num += 1
            _refuse_many(num, MAX_SEGMENTS, "blocks before its first frame")
            position += 1 + data[position]
        position += 1


_CHECKS: dict[bytes, Callable[[bytes], None]] = {
    b"\xff\xd8": _check_jpeg,
    b"\x89PNG": _check_png,
    b"RIFF": _check_riff,
    b"GIF8": _check_gif,
    b"II": refuse_costly_tags,
    b"MM": refuse_costly_tags,
}
