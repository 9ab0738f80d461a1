"""Files of few bytes and pixels that would cost a decoder minutes, and real ones beside them."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import pytest
from PIL import Image, ImageFile

from gpg_vl.data.containers import MAX_SCANS, MAX_SEGMENTS, CostlyFile, refuse_costly, refuse_costly_tags
from gpg_vl.data.images import BadImage, open_image, read_size
from tests.support.clock import takes_less_than
from tests.support.pictures import encode

PICTURE = Image.effect_noise((60, 40), 80).convert("RGB")
JPEG = encode(PICTURE, "JPEG", progressive=True)
PNG = encode(PICTURE, "PNG")
WEBP = encode(PICTURE, "WEBP")
GIF = encode(PICTURE, "GIF")
GIF_COLOURS = 13 + 3 * 2 ** (1 + GIF[10] % 8)
"""Where its palette ends."""


def segment(marker: int, payload: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload


def chunk(kind: bytes, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def jpeg_with(*segments: bytes) -> bytes:
    return JPEG[:2] + b"".join(segments) + JPEG[2:]


def scan_bomb(scans: int, side: int = 1024) -> bytes:
    """A grey progressive JPEG whose last scan, of a few bytes, comes again and again."""
    out = bytearray(b"\xff\xd8" + segment(0xDB, b"\0" + bytes([1] * 64)))
    out += segment(0xC2, struct.pack(">BHHBBBB", 8, side, side, 1, 1, 0x11, 0))
    for kind, symbols in ((0, [0]), (1, [0xE0, 0])):
        counts = bytes(int(n < len(symbols)) for n in range(16))
        out += segment(0xC4, bytes([kind << 4]) + counts + bytes(symbols))
    blocks = (side // 8) ** 2

    def scan(first: int, last: int, bits: str) -> bytes:
        bits += "1" * (-len(bits) % 8)
        data = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
        return segment(0xDA, bytes([1, 1, 0, first, last, 1])) + data

    runs = "".join("0" + format(min(left, 32767) - 16384, "014b") for left in [blocks] if left >= 16384)
    out += scan(0, 0, "0" * blocks) + scan(1, 63, runs) * scans
    return bytes(out + b"\xff\xd9")


def tags(entries: int, size: int = 4, block: int = 1000) -> bytes:
    """A directory of EXIF whose entries all hold ``size`` bytes from the same place."""
    head = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", min(entries, 65535))
    body = b"".join(struct.pack("<HHII", n % 65536, 7, size, 8) for n in range(entries))
    return head + body + bytes(block)


@pytest.mark.parametrize("data", [JPEG, PNG, WEBP, GIF, encode(PICTURE, "TIFF"), encode(PICTURE, "BMP")])
def test_ordinary_files_pass(data: bytes) -> None:
    refuse_costly(data)
    for length in (2, 3, 12, 13, len(data) // 2, len(data) - 3):
        refuse_costly(data[:length])


def test_the_metadata_of_cameras_and_editors_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "MAXBLOCK", 2**21)  # Pillow 12 writes no more than that before the pixels
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x9286] = 6, "maker" * 100, b"note" * 5000
    large = encode(PICTURE, "JPEG", exif=exif, icc_profile=bytes(500_000), comment=b"c" * 60_000, progressive=True)
    refuse_costly(large)
    assert open_image(large).size == (40, 60)
    refuse_costly(large + bytes(range(256)) * 4000), "a video behind the picture, as telephones write it"
    refuse_costly(large + b"\xff\xda\x00\x02" * 10_000)


@pytest.mark.parametrize(
    "data",
    [
        scan_bomb(MAX_SCANS + 1),
        scan_bomb(4000),
        jpeg_with(segment(0xFE, b"") * (MAX_SEGMENTS + 1)),
        jpeg_with(segment(0xE1, b"Exif\0\0" + bytes(100)) * (MAX_SEGMENTS + 1)),
        jpeg_with(segment(0xE1, b"Exif\0\0" + tags(3000, 60_000))),
        jpeg_with(segment(0xE2, b"MPF\0" + tags(1500, 40_000))),
        jpeg_with(segment(0xE1, b"Exif\0\0" + tags(5000, 60_000)[:30_000]), segment(0xE1, b"Exif\0\0" + bytes(60_000))),
        PNG[:33] + chunk(b"tEXt", b"a\0b") * (MAX_SEGMENTS + 1) + PNG[33:],
        PNG[:33] + chunk(b"IDAT") * 60_000 + PNG[33:],
        PNG[:33] + chunk(b"eXIf", tags(1900, 10**6, 10**6)) + PNG[33:],
        WEBP + b"XXXX\0\0\0\0" * (MAX_SEGMENTS + 1),
        WEBP + b"EXIF" + struct.pack("<I", len(tags(1900, 30_000, 30_000))) + tags(1900, 30_000, 30_000),
        GIF[:GIF_COLOURS] + b"\x21\xfe" + b"\x01a" * (MAX_SEGMENTS + 1) + b"\0" + GIF[GIF_COLOURS:],
        tags(60_000),
    ],
    ids=[
        "scans", "many-scans", "comments", "exif-blocks", "exif-bomb", "mpf-bomb", "exif-in-two", "texts", "pixels",
        "png-exif", "webp-chunks", "webp-exif", "gif-comments", "tiff",
    ],
)  # fmt: skip
def test_files_of_too_many_parts_are_refused_at_once(data: bytes) -> None:
    with pytest.raises(CostlyFile):
        refuse_costly(data)

    def refuse() -> None:
        for use in (open_image, read_size):
            with pytest.raises(BadImage) as caught:
                use(data)
            assert "\n" not in str(caught.value)

    assert takes_less_than(2, refuse)


def test_a_progressive_picture_of_many_scans_opens() -> None:
    assert open_image(scan_bomb(MAX_SCANS - 1)).size == (1024, 1024)


def test_a_directory_that_points_at_nothing_is_no_bomb() -> None:
    starts = [b"", b"II", b"II*\0" + struct.pack("<I", 10**9), b"MM\0*\0\0\0\x08\0\x05", b"Exif\0\0"]
    for block in [*starts, tags(50, 900)]:
        refuse_costly_tags(block)


def test_pillow_reads_what_is_left_alone() -> None:
    stream = BytesIO()
    PICTURE.save(stream, "GIF", save_all=True, append_images=[PICTURE] * 5, comment=b"c" * 5000)
    refuse_costly(stream.getvalue())
