"""``python -m benchmarks.gpu_sections.child NAME MODULE ROWS``: the process of one section.

It imports the section while the one before still measures, and waits for its setting, a line of JSON on standard input.
To the file ROWS it appends lines of JSON: each row when it begins and when it is there, and what ended the section.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import sys
import traceback
from dataclasses import asdict
from pathlib import Path

from benchmarks.gpu_sections.progress import JOURNAL
from benchmarks.gpu_sections.records import Setting
from gpg_vl.errors import is_out_of_memory

FAILED = 1
SECONDS_BEFORE_END = 3.0
"""The log then gets the stack of what is still running: where it hangs."""


def main() -> int:
    faulthandler.enable()
    name, module, rows = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    JOURNAL.open(rows, name)
    try:
        section = importlib.import_module(module)
        line = sys.stdin.readline()
        if not line:  # whoever asked for the section is gone
            return FAILED
        setting = Setting(**json.loads(line))
        faulthandler.dump_traceback_later(max(1.0, setting.seconds_left() - SECONDS_BEFORE_END))
        for row in section.run(setting):
            JOURNAL.write({"row": asdict(row)})
    except Exception as error:  # noqa: BLE001  the run goes on with the other sections
        traceback.print_exc()
        JOURNAL.write({"error": describe(error), "is_memory": is_out_of_memory(error)})
        return FAILED
    return 0


def describe(error: BaseException) -> str:
    """Kind and first line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
