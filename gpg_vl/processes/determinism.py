"""A run whose numbers are the same each time on one device, where torch can keep to that: ``run.deterministic``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from gpg_vl.errors import first_line

_SETTINGS: Any = torch.utils.deterministic  # torch puts its attribute there when it is imported


@contextmanager
def deterministic(*, is_wanted: bool) -> Iterator[None]:
    """Inside, torch runs only operations that give the same bits each time. Outside, and where it is not wanted, any.

    Raises:
        ValueError: an operation of the model has no such form on this device; one line
    """
    if not is_wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), _SETTINGS.fill_uninitialized_memory
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    torch.use_deterministic_algorithms(mode=True)
    _SETTINGS.fill_uninitialized_memory = False  # it would write all memory twice
    try:
        yield
    except RuntimeError as error:
        found, marker, _ = first_line(error).partition(" does not have a deterministic implementation")
        if not marker:
            raise
        raise ValueError(
            f"run.deterministic: {found} has no deterministic form on this device; set it to false, or take another "
            "model.attention"
        ) from error
    finally:
        torch.use_deterministic_algorithms(mode=before[0])
        _SETTINGS.fill_uninitialized_memory = before[1]
