"""Keeps off the screen what libraries say there and no user of the kit can act on. ``--debug`` shows it."""

from __future__ import annotations

import logging
import os
import warnings


def quiet_libraries() -> None:
    """Silences deprecations, notes of DeepSpeed and bitsandbytes, and the bars of tqdm.

    Call it before the libraries are imported. Bars of downloads stay: these say themselves whether they are shown.
    """
    for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
        warnings.filterwarnings("ignore", category=category)
    logging.getLogger("DeepSpeed").addFilter(_is_error)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    os.environ.setdefault("TQDM_DISABLE", "1")


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
