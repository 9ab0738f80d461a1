"""How an error is shown to a user, whose fault it is, and which errors mean that memory ran out."""

from __future__ import annotations

import errno

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE)
_MEMORY_ERRORS = ("OutOfMemoryError", "MemoryError")
_MEMORY_WORDS = ("out of memory", "can't allocate memory", "status_alloc_failed", "cudaerrormemoryallocation")
"""torch's allocator for the host, CUDA itself (AcceleratorError), cuBLAS, cuDNN and cuSPARSE."""


class ModelMistake(ValueError):
    """A file of the model's folder is wrong, whatever the row: the message names no row."""


def first_line(error: BaseException) -> str:
    """The first line of the message, or the type if there is none: libraries' messages can be paragraphs long."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def is_disk_error(error: BaseException) -> bool:
    """Whether the disk is full or gone: safetensors has an error of its own, which only says so."""
    if type(error).__name__ == "SafetensorError":
        return "i/o error" in str(error).lower()
    return isinstance(error, OSError) and error.errno in _DISK_ERRORS


def describe_error_of_files(error: BaseException) -> str:
    """The file and the reason, and the way out where the disk is full."""
    if not isinstance(error, OSError) or not isinstance(error.filename, str) or error.strerror is None:
        return str(error)
    way_out = "; free space, or choose another place" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return f"{error.filename}: {error.strerror}{way_out}"


def is_out_of_memory(error: BaseException) -> bool:
    """On the card or the host: torch's allocator has an error class of its own, other places only say so."""
    said = str(error).lower()
    return type(error).__name__ in _MEMORY_ERRORS or any(words in said for words in _MEMORY_WORDS)
