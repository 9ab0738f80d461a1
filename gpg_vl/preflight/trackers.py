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
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:  # only a folder of that name, as trackers make them
            raise ValueError(f"run.trackers: {name} is not installed; pip install {name}, or leave it out")
