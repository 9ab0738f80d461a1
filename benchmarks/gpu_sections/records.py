"""What passes between ``benchmarks.gpu`` and its sections; without torch, since every section's process starts here.

A section is a module with ``run(setting)``, which yields rows: frozen dataclasses of one class, so that each row of a
section has the same fields on every machine. A value that a machine cannot give is None, and ``status`` says why.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

OK = "ok"
NOT_FINISHED = "not finished"
OUT_OF_MEMORY = "out of memory"
Outcome = Literal["ok", "failed", "out of memory", "timed out", "died", "interrupted"]


@dataclass(frozen=True)
class Section:
    """A module that measures, and the seconds that it may take when the whole takes eight minutes."""

    module: str
    seconds: float


@dataclass(frozen=True)
class Setting:
    """Where and how large a section measures, and until when."""

    device: str  # cuda or cpu
    is_tiny: bool
    ends_at: float  # on the clock of time.monotonic, which all processes of a machine share

    def seconds_left(self) -> float:
        return self.ends_at - time.monotonic()


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement."""

    name: str
    status: str = OK  # ok, or why there are no values
    seconds: float = 0.0  # that measuring took, everything included


@dataclass(frozen=True)
class SectionResult:
    """What came of a section, its rows as far as it got."""

    name: str
    outcome: Outcome
    seconds: float
    limit_s: float
    error: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
