"""Files packed by gzip or Zstandard -> their content, of bounded size."""

from __future__ import annotations

import gzip
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow

from gpg_vl.errors import first_line

PACKED = (".gz", ".zst")
MAX_BYTES = 8 * 2**30
"""Of a packed file's content; a few kilobytes can unpack to any size."""
_CHUNK = 2**20


def name_without_packing(path: Path) -> str:
    """The name in lower case, without ``.gz`` or ``.zst``; ``.tgz`` counts as ``.tar.gz``."""
    name = path.name.lower()
    if name.endswith(".tgz"):
        return name.removesuffix(".tgz") + ".tar"
    return next((name.removesuffix(end) for end in PACKED if name.endswith(end)), name)


def is_packed(path: Path) -> bool:
    return name_without_packing(path) != path.name.lower()


def read_bytes(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """The content of a file, unpacked.

    Raises:
        ValueError: it is damaged, or its content is larger than ``max_bytes``
    """
    return b"".join(_chunks(path, max_bytes)) if is_packed(path) else path.read_bytes()


def open_seekable(path: Path, max_bytes: int = MAX_BYTES) -> IO[bytes]:
    """The file, or a temporary file without a name that holds what a packed one unpacks to.

    Raises:
        ValueError: as ``read_bytes``
    """
    if not is_packed(path):
        return path.open("rb")
    file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed with the last reference to it
    file.writelines(_chunks(path, max_bytes))
    file.seek(0)
    return file


def _chunks(path: Path, max_bytes: int) -> Iterator[bytes]:
    total = 0
    try:
        with _open(path) as stream:
            while chunk := stream.read(_CHUNK):
                total += len(chunk)
                if total > max_bytes:
                    raise ValueError(f"{path} unpacks to more than {max_bytes} bytes; unpack it into smaller files")
                yield chunk
    except (EOFError, OSError, zlib.error, pyarrow.ArrowException) as error:
        raise ValueError(f"{path} cannot be unpacked ({first_line(error)[:100]}); write it again") from error


def _open(path: Path) -> Any:
    if path.suffix.lower() == ".zst":
        return pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd")
    return gzip.open(path)
