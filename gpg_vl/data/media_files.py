"""What images and videos share: the bytes of a file, at a URL or as given, and the shape of a picture."""

from __future__ import annotations

from collections.abc import Collection

from gpg_vl.data.downloads import TIMEOUT_S, download
from gpg_vl.data.plain_files import read_plain_file

MIN_SIDE = 2  # pixels
MAX_ASPECT = 50  # longer side to shorter side; some vision towers stop at 200


class RefusedError(Exception):
    """The kit does not accept the image or the video; the message says why."""


def is_url(source: str) -> bool:
    """Whether a row names a place on the network instead of a file."""
    return "://" in source or source.startswith("data:")


def read_source(source: str | bytes, hosts: Collection[str], max_bytes: int, timeout_s: float = TIMEOUT_S) -> bytes:
    """The whole file, which is not empty; of a larger one as much as ``read_path`` returns, or the bytes as given.

    Args:
        source: path, URL or bytes
        hosts: hosts that may be asked

    Raises:
        RefusedError: there is no such file, it is empty, or the URL cannot be fetched
        OSError: the file cannot be read
    """
    if isinstance(source, str):
        source = fetch(source, hosts, max_bytes, timeout_s) if is_url(source) else read_path(source, max_bytes)
    if not source:
        raise RefusedError("the file is empty")
    return source


def read_path(path: str, max_bytes: int) -> bytes:
    """As ``read_plain_file``, which gives one byte more than ``max_bytes`` of a larger file.

    Raises:
        RefusedError: there is no such file
        OSError: the file cannot be read
    """
    try:
        return read_plain_file(path, max_bytes)
    except FileNotFoundError as error:
        raise RefusedError("no such file") from error


def fetch(url: str, hosts: Collection[str], max_bytes: int, timeout_s: float = TIMEOUT_S) -> bytes:
    """
    Raises:
        RefusedError: as ``download`` raises a ``ValueError``
    """
    try:
        return download(url, hosts, max_bytes, timeout_s)
    except ValueError as error:
        raise RefusedError(str(error)) from error


def refuse_shape(has: str, width: int, height: int) -> None:
    """
    Args:
        has: how the message begins: "it has" or "its frames have"

    Raises:
        RefusedError: a side is too short, or far shorter than the other
    """
    if min(width, height) < MIN_SIDE:
        raise RefusedError(f"{has} {width} x {height} pixels; each side needs at least {MIN_SIDE}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise RefusedError(f"{has} {width} x {height} pixels; one side is over {MAX_ASPECT} times the other")
