"""An image file, its bytes or its URL -> an upright RGB image, or one line that says why not.

Problems are found in a file's header where possible, before a pixel is decoded. A path never leaves its root; a URL is
only fetched from a host that the caller names.
"""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Callable, Collection
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import numpy
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.Image import Transpose
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from gpg_vl.data.containers import CostlyFile, refuse_costly
from gpg_vl.data.downloads import check_url
from gpg_vl.data.media_files import RefusedError, fetch, is_url, read_path, read_source, refuse_shape

MAX_BYTES = 64 * 2**20
MAX_PIXELS = 20_000_000

MAX_LARGE_PIXELS = 178_000_000
"""With ``shrink``; Pillow itself refuses more than 178,956,970."""
MAX_DECODED_PIXELS = 3 * MAX_PIXELS
"""With ``shrink``: of an image that can only be decoded as a whole."""

FORMATS = "PNG, JPEG, WEBP, BMP, GIF or TIFF"
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
_ORIGINAL = "original_size"  # key of an image's info
_PNG_END = b"IEND\xaeB`\x82"
_TURNS = {  # EXIF orientation -> the transformation that makes the image upright
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_Result = TypeVar("_Result")

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # the kit's own limit is lower


class BadImage(ValueError):
    """``cannot open image NAME: REASON``. ``data.on_bad_image`` says what to do."""


def find_image(entry: str, root: Path | None, hosts: Collection[str] = (), kind: str = "image") -> str:
    """The image that a row names, as ``open_image`` takes it: an absolute path in the root, or a URL of a known host.

    Args:
        entry: a path relative to ``root``, or a URL; links may not leave the root either
        root: resolved folder; None allows no paths
        hosts: hosts that images may be fetched from
        kind: "image" or "video", for messages

    Raises:
        ValueError: the path leads out of the root, or the URL's host is not one of ``hosts``; says what to do
    """
    if is_url(entry):
        try:
            check_url(entry, hosts)
        except ValueError as error:
            raise ValueError(f"{kind} {entry[:80]!r}: {error}") from error
        return entry
    if root is None:
        raise ValueError(
            f"{kind} {entry[:80]!r} is not in the hub data set itself; set data.image_root to the {kind}s' folder"
        )
    try:
        path = follow_links(root / entry)
    except (OSError, ValueError) as error:  # a link to itself, a zero byte
        raise ValueError(f"{kind} {entry[:80]!r} is not a usable path ({type(error).__name__}); correct it") from error
    if not path.is_relative_to(root):
        raise ValueError(f"{kind} {entry[:80]!r} is outside {root}; set data.image_root to a folder that contains it")
    return str(path)


def follow_links(path: Path) -> Path:
    """``path`` as an absolute path without ``..`` and links; the part that does not exist is left unchanged.

    Raises:
        OSError: a link leads to itself; Python follows nothing after it, and a second link there may lead anywhere
        ValueError: the path contains a zero byte
    """
    try:
        resolved = path.resolve()
    except RuntimeError as error:  # how Python 3.11 and 3.12 report such a link at the end of the path
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from error
    if any(os.path.islink(part) for part in (resolved, *resolved.parents)):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return resolved


def check_presence(source: str | bytes, kind: str = "image") -> None:
    """Raises ``BadImage`` if a path names no file. Bytes are always present; a URL is not checked."""
    if isinstance(source, str) and not is_url(source):
        try:
            path = Path(source)
            reason = "" if path.is_file() else "it is a folder" if path.is_dir() else "no such file"
        except OSError as error:
            reason = _reason(error)
        if reason:
            raise BadImage(f"cannot open {kind} {source[:200]}: {reason}; put it there or set data.image_root")


def open_image(source: str | bytes, hosts: Collection[str] = (), shrink: bool = False) -> Image.Image:
    """The first frame as RGB, turned upright by its EXIF orientation, with a white background if it is transparent.

    Args:
        source: path or URL of a PNG, JPEG, WebP, BMP, GIF or TIFF file, or the bytes of one
        hosts: hosts that images may be fetched from; empty: every URL is refused
        shrink: whether an image of more than ``MAX_PIXELS`` is opened at a half, a quarter or an eighth of its size
            instead of being refused; ``original_size`` is that of the file

    Raises:
        BadImage: ``cannot open image NAME: REASON``
    """
    return _read(source, hosts, _decode_small if shrink else _decode, MAX_LARGE_PIXELS if shrink else MAX_PIXELS)


def original_size(image: Image.Image) -> tuple[int, int]:
    """Width and height that an image of ``open_image`` has in its file, upright: the pixels that boxes are in."""
    width, height = image.info.get(_ORIGINAL, image.size)
    return width, height


def fetch_image(source: str | bytes, hosts: Collection[str] = ()) -> str | bytes:
    """The bytes at a URL, so that they need not be fetched again; a path or bytes are returned unchanged.

    Raises:
        BadImage: ``cannot open image NAME: REASON``
    """
    if isinstance(source, bytes) or not is_url(source):
        return source
    try:
        return fetch(source, hosts, MAX_BYTES)
    except RefusedError as error:
        raise BadImage(f"cannot open image {source[:200]}: {error}") from error


def read_size(source: str | bytes, hosts: Collection[str] = ()) -> tuple[int, int]:
    """Width and height in pixels of what ``open_image`` would return, read from the header alone.

    Raises:
        BadImage: ``cannot open image NAME: REASON``
    """
    return _read(source, hosts, _upright_size, MAX_PIXELS)


def _read(
    source: str | bytes, hosts: Collection[str], action: Callable[[Image.Image], _Result], max_pixels: int
) -> _Result:
    try:
        with Image.open(BytesIO(_read_bytes(source, hosts)), formats=_FORMATS) as image:
            _refuse_size(*image.size, max_pixels)
            return action(image)
    except Exception as error:  # decoders raise nearly anything on broken bytes
        name = f"({len(source)} bytes)" if isinstance(source, bytes) else source[:200]
        raise BadImage(f"cannot open image {name}: {_reason(error)}") from error


def read_image_file(path: str) -> bytes:
    """The bytes of an image that ``find_image`` found.

    Raises:
        BadImage: ``cannot open image NAME: REASON``
    """
    try:
        return _whole(read_path(path, MAX_BYTES), path)
    except (OSError, RefusedError) as error:
        raise BadImage(f"cannot open image {path[:200]}: {_reason(error)}") from error


def _read_bytes(source: str | bytes, hosts: Collection[str]) -> bytes:
    """The whole file, small enough and of few enough parts."""
    data = _whole(read_source(source, hosts, MAX_BYTES), source)
    refuse_costly(data)
    return data


def _whole(data: bytes, source: str | bytes) -> bytes:
    if len(data) > MAX_BYTES and isinstance(source, str):  # the rest was not read
        raise RefusedError(f"the file has more than {MAX_BYTES} bytes")
    if len(data) > MAX_BYTES:
        raise RefusedError(f"the file has {len(data)} bytes, more than {MAX_BYTES}")
    return data


def _refuse_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        way_out = ", or set data.on_large_image to shrink" if max_pixels == MAX_PIXELS else ""
        raise RefusedError(f"it has {width} x {height} pixels, more than {max_pixels}; make it smaller{way_out}")
    refuse_shape("it has", width, height)


def _reason(error: Exception) -> str:
    """The reason in our own words: the library's message may contain bytes of the file."""
    if isinstance(error, RefusedError | CostlyFile):
        return str(error)
    if isinstance(error, UnidentifiedImageError):
        return f"it is not a {FORMATS} image"
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {MAX_PIXELS} pixels; make it smaller"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return f"it is broken or truncated ({type(error).__name__})"


def _decode_small(image: Image.Image) -> Image.Image:
    """``_decode``, of a large image at a part of its size: a JPEG is never decoded as a whole."""
    factor = next(factor for factor in (1, 2, 4, 8) if image.width * image.height <= MAX_PIXELS * factor**2)
    size = _upright_size(image)
    if factor == 1:
        return _decode(image)
    if isinstance(image, JpegImageFile):
        image.draft(image.mode, (image.width // factor, image.height // factor))
    _refuse_size(*image.size, MAX_DECODED_PIXELS)
    decoded = _decode(image)
    small = decoded if decoded.width * decoded.height <= MAX_PIXELS else decoded.reduce(factor)
    small.info = {_ORIGINAL: size}
    return small


def _decode(image: Image.Image) -> Image.Image:
    if isinstance(image, PngImageFile):
        _refuse_cut(image)
    turn = _TURNS.get(_orientation(image))
    rgb = _to_rgb(image)
    upright = rgb if turn is None else rgb.transpose(turn)
    upright.info = {}  # drops the EXIF bytes, so that nobody turns the image again
    return upright


def _refuse_cut(image: PngImageFile) -> None:
    """Refuses a PNG that was cut off after its pixels, which Pillow accepts."""
    assert image.fp is not None, "its pixels must not have been read yet"
    start = image.fp.tell()
    if _PNG_END not in image.fp.read():
        raise RefusedError("it is broken or truncated (its end is missing)")
    image.fp.seek(start)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    return (height, width) if _orientation(image) in (5, 6, 7, 8) else (width, height)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, or 1 if there is none. A PNG that stores it after the pixels counts as upright.

    Pillow turns a TIFF itself.
    """
    in_header = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
    return image.getexif().get(ExifTags.Base.Orientation, 1) if in_header else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":  # Pillow's own conversion would make values from 0 to 1 black
        raise RefusedError("its pixels are floating-point numbers; write 8 bits a channel")
    if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion would clip values at 255
        rgb = image.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L").convert("RGB")
        if "transparency" in image.info:  # the one grey value that is transparent
            rgb.paste("white", mask=Image.fromarray(numpy.asarray(image) == image.info["transparency"]))
        return rgb
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")
