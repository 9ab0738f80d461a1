"""Digests that tell files apart without reading large ones as a whole."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

BLOCK_BYTES = 2**16


def digest_file(path: Path, num_blocks: int = 2) -> str:
    """A digest of a file's size and of blocks spread over it, its start and its end among them.

    A file of up to ``num_blocks`` blocks counts as a whole. In a longer one, a change of a few bytes between the blocks
    that keeps the size is not seen; one picture or model in place of another is.

    Raises:
        OSError: the file cannot be read
    """
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(f"{size}:".encode())
        for offset in _offsets(size, num_blocks):
            digest.update(os.pread(file.fileno(), BLOCK_BYTES, offset))
    return digest.hexdigest()


def digest_bytes(content: bytes, num_blocks: int = 2) -> str:
    """The digest that a file with this content has."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{len(content)}:".encode())
    for offset in _offsets(len(content), num_blocks):
        digest.update(content[offset : offset + BLOCK_BYTES])
    return digest.hexdigest()


def _offsets(size: int, num_blocks: int) -> list[int]:
    if size <= num_blocks * BLOCK_BYTES:
        return list(range(0, size, BLOCK_BYTES))
    return [number * (size - BLOCK_BYTES) // (num_blocks - 1) for number in range(num_blocks)]
