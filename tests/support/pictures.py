"""Files of images, whole and forged."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

from PIL import Image


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)  # type: ignore[arg-type]
    return stream.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that says its size and holds next to nothing."""
    return write_png(width, height, 8, 0, zlib.compress(b"\0"))


def write_png(width: int, height: int, bits: int, colour_type: int, pixels: bytes) -> bytes:
    """A PNG of compressed lines, as the format's specification has it."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
