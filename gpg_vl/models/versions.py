"""Versions of the libraries that decide what a model reads and computes."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version

MODEL_LIBRARIES = ("gpg-vl", "torch", "transformers", "qwen-vl-utils")


def read_versions(others: Iterable[str] = ()) -> dict[str, str]:
    """The installed version of each of ``MODEL_LIBRARIES``, then of ``others``."""
    return {name: version(name) for name in (*MODEL_LIBRARIES, *others)}
