"""One line of ``gpg-vl doctor``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FindingState = Literal["ok", "missing", "fails"]
"""fails: no run works; missing: what the line names does not."""


@dataclass(frozen=True, slots=True)
class Finding:
    state: FindingState
    what: str
    text: str

    def __str__(self) -> str:
        return f"{self.state:7}  {self.what:13}  {self.text}"
