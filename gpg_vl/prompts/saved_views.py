"""Views that were written as JSON (``dataclasses.asdict``) -> views."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpg_vl.records import FrameTimes, ImageView, VideoView


def read_view(plain: Mapping[str, Any]) -> ImageView:
    """
    Raises:
        TypeError: it is not a view
    """
    if "times" not in plain:
        return ImageView(**plain)
    times = plain["times"]
    return VideoView(**{**plain, "times": FrameTimes(**{**times, "numbers": tuple(times["numbers"])})})
