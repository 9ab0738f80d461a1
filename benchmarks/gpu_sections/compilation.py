"""What torch.compile did: graphs, and whether it gave up."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from torch._dynamo.utils import counters
from torch.nn.attention import flex_attention

LOGGERS = ("torch", "torch._dynamo", "torch._inductor")
"""The last two do not pass on what they hear."""
FALLBACK_WORDS = ("recompile_limit", "cache_size_limit", "without torch.compile", "unfused")


@dataclass
class Compilation:
    graphs: int = 0
    fallback: str = ""  # the first warning that tells of code that is not compiled


@contextmanager
def watch_compilation() -> Iterator[Compilation]:
    """Filled when the block ends. FlexAttention warns once a process; here, once a block."""
    found = Compilation()
    before = counters["stats"]["unique_graphs"]
    flex_attention._WARNINGS_SHOWN.clear()
    with heard_warnings() as heard:
        yield found
    found.graphs = counters["stats"]["unique_graphs"] - before
    found.fallback = next((text for text in heard if any(word in text for word in FALLBACK_WORDS)), "")


@contextmanager
def heard_warnings() -> Iterator[list[str]]:
    """What Python's warnings and torch's loggers say within."""
    heard: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    try:
        with warnings.catch_warnings(record=True) as caught, ExitStack() as stack:
            warnings.simplefilter("always")
            for name in LOGGERS:
                logging.getLogger(name).addHandler(handler)
                stack.callback(logging.getLogger(name).removeHandler, handler)
            yield heard
    finally:
        heard += [str(each.message) for each in caught]
