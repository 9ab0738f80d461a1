"""A reward that differs between random completions, so that --smoke goes through a whole update. It teaches nothing."""

from __future__ import annotations

from typing import Any


def spread(completions: list[Any], **columns: Any) -> list[float]:
    return [sum(map(ord, str(completion))) % 97 / 97 for completion in completions]
