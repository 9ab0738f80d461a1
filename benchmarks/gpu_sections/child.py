"""``python -m benchmarks.gpu_sections.child NAME MODULE ROWS``: the process of one section.

It imports the section while the one before still measures, and waits for its setting, a line of JSON on standard input.
Each row is appended to the file ROWS at once, a line of JSON each; what ended the section early is the last line.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import sys
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.gpu_sections.records import Setting

FAILED = 1
SECONDS_BEFORE_END = 3.0
"""The log then gets the stack of what is still running: where it hangs."""


def main() -> int:
    faulthandler.enable()
    name, module, rows = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    try:
        section = importlib.import_module(module)
        line = sys.stdin.readline()
        if not line:  # whoever asked for the section is gone
            return FAILED
        setting = Setting(**json.loads(line))
        faulthandler.dump_traceback_later(max(1.0, setting.seconds_left() - SECONDS_BEFORE_END))
        for row in section.run(setting):
            append(rows, {"section": name, "row": asdict(row)})
    except Exception as error:  # noqa: BLE001  the run goes on with the other sections
        traceback.print_exc()
        append(rows, {"section": name, "error": describe(error), "is_memory": is_out_of_memory(error)})
        return FAILED
    return 0


def append(path: Path, record: Mapping[str, Any]) -> None:
    with path.open("a") as file:  # in one write: the process of another section may add a line of its own
        file.write(json.dumps(record) + "\n")


def describe(error: BaseException) -> str:
    """Kind and first line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """On the card or the host; torch's allocator for the host has no error class of its own."""
    return type(error).__name__ in ("OutOfMemoryError", "MemoryError") or "can't allocate memory" in str(error)


if __name__ == "__main__":
    sys.exit(main())
