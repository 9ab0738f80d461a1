"""How an error is shown to a user, whose fault it is, and which errors mean that memory ran out."""

from __future__ import annotations

_MEMORY_ERRORS = ("OutOfMemoryError", "MemoryError")
_MEMORY_WORDS = ("out of memory", "can't allocate memory", "status_alloc_failed", "cudaerrormemoryallocation")
"""torch's allocator for the host, CUDA itself (AcceleratorError), cuBLAS, cuDNN and cuSPARSE."""


class ModelMistake(ValueError):
    """A file of the model's folder is wrong, whatever the row: the message names no row."""


def first_line(error: BaseException) -> str:
    """The first line of the message, or the type if there is none: libraries' messages can be paragraphs long."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def is_out_of_memory(error: BaseException) -> bool:
    """On the card or the host: torch's allocator has an error class of its own, other places only say so."""
    said = str(error).lower()
    return type(error).__name__ in _MEMORY_ERRORS or any(words in said for words in _MEMORY_WORDS)
