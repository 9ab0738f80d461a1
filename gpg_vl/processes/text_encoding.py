"""Text is UTF-8, whatever the locale says: file names, files, and what is printed."""

from __future__ import annotations

import os
import sys


def use_utf8() -> None:
    """Starts the process again in Python's UTF-8 mode, if file names are in another encoding; processes inherit it.

    For the start of a command: nothing has been read or written yet.
    """
    if sys.getfilesystemencoding().lower().replace("-", "") == "utf8" or os.environ.get("PYTHONUTF8") == "1":
        return
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
