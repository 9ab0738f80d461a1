"""Whether the trackers that a recipe names are installed, before anything is loaded."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence


def check_trackers(names: Sequence[str]) -> None:
    """
    Args:
        names: each that of a package as well

    Raises:
        ValueError: one is not installed
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"run.trackers: {name} is not installed; pip install {name}, or leave it out")
