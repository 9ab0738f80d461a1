"""One measurement of a section: whatever goes wrong in it becomes the status of its row, and the next one goes on."""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from benchmarks.gpu_sections.child import describe
from benchmarks.gpu_sections.progress import JOURNAL
from benchmarks.gpu_sections.records import OK, OUT_OF_MEMORY, Row, Setting
from gpg_vl.errors import is_out_of_memory

R = TypeVar("R", bound=Row)


class NotHere(Exception):
    """This machine cannot measure it, or the section has no time left; the message says which."""


def measured(row_class: type[R], work: Callable[[], dict[str, Any]], **identity: Any) -> R:
    """The row with ``identity`` and the values that ``work`` returns, or without values where it fails.

    The journal hears of it before ``work`` begins: if the process is ended meanwhile, the row says so.
    """
    started = time.monotonic()
    JOURNAL.started(row_class(**identity))
    values: dict[str, Any] = {}
    try:
        values = work()
    except NotHere as reason:
        values = {"status": f"not measured: {reason}"}
    except Exception as error:  # noqa: BLE001  the other rows do not depend on it
        traceback.print_exc()
        values = {"status": OUT_OF_MEMORY if is_out_of_memory(error) else f"failed: {describe(error)}"}
    if values.get("status", OK) != OK:
        free_memory()  # outside of the handler, where the error still holds what the work had allocated
    return row_class(**{**identity, **values}, seconds=time.monotonic() - started)


def require_seconds(setting: Setting, seconds: float) -> None:
    """
    Raises:
        NotHere: the section's deadline is closer than that
    """
    if setting.seconds_left() < seconds:
        raise NotHere(f"{max(0.0, setting.seconds_left()):.0f} s are left, it takes about {seconds:.0f}")


def free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
