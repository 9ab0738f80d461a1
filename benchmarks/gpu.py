"""What a GPU shows of the kit, in minutes: is it exact there, how fast is it, how much memory does it take?

    python -m benchmarks.gpu --out DIR [--minutes 8] [--sections exactness,rollout] [--tiny]

Each section runs in a process of its own until its deadline. DIR gets results.json, written anew after each section,
rows.jsonl (each row at once), table.txt and log.txt. --tiny runs every section on tiny models, on a CPU too. What the
sections mean: docs/gpu.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import IO, Any, NoReturn

from benchmarks.gpu_sections import SECTIONS
from benchmarks.gpu_sections.processes import Scratch, end, measure, scratch, start
from benchmarks.gpu_sections.records import Section, SectionResult
from benchmarks.gpu_sections.table import FILE_WIDTH, render
from gpg_vl.processes.command_line import OneLineParser

SECONDS_IN_HAND = 10.0
"""Of the minutes: to start, to end a section that hangs, to print."""
USAGE_ERROR, INCOMPLETE = 2, 1


def main(argv: Sequence[str] | None = None, sections: Mapping[str, Section] = SECTIONS) -> int:
    begun = time.monotonic()
    try:
        options = read_options(argv, sections)
        device = find_device(is_tiny=options.tiny)
        options.out.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE_ERROR
    chosen = {name: section for name, section in sections.items() if name in options.sections}
    ends_at = begun + 60 * options.minutes - SECONDS_IN_HAND
    results: list[SectionResult] = []
    before = signal.signal(signal.SIGTERM, _leave)  # so that what is there is printed, and the section ended
    with scratch(device) as place, (options.out / "log.txt").open("w") as log, suppress(KeyboardInterrupt):
        _run(chosen, results, options.out, device, ends_at, place, log, is_tiny=options.tiny)
    signal.signal(signal.SIGTERM, before)
    (options.out / "table.txt").write_text(render(results))
    print(render(results, shutil.get_terminal_size((FILE_WIDTH, 0)).columns))
    is_complete = len(results) == len(chosen) and all(result.outcome == "ok" for result in results)
    return 0 if is_complete else INCOMPLETE


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def read_options(argv: Sequence[str] | None, sections: Mapping[str, Section]) -> argparse.Namespace:
    """
    Raises:
        ValueError: an option cannot be used as it is; one line
    """
    parser = OneLineParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the results; new or empty")
    parser.add_argument("--minutes", type=float, default=8.0, help="that all sections may take together")
    parser.add_argument("--sections", default=",".join(sections), help="names with commas; all by default")
    parser.add_argument("--tiny", action="store_true", help="tiny models: a trial of the script itself")
    options = parser.parse_args(argv)
    options.sections = [name.strip() for name in options.sections.split(",")]
    unknown = [name for name in options.sections if name not in sections]
    if unknown:
        raise ValueError(f"--sections: there is no section {unknown[0]!r}; the sections are {', '.join(sections)}")
    if not math.isfinite(options.minutes) or 60 * options.minutes <= SECONDS_IN_HAND:
        raise ValueError(f"--minutes {options.minutes:g} is too short to measure anything; give at least 1")
    if options.out.exists() and not options.out.is_dir():
        raise ValueError(f"--out: {options.out} is a file; name a folder")
    if options.out.is_dir() and any(options.out.iterdir()):
        raise ValueError(f"--out: {options.out} holds files already; name a new folder")
    return options


def find_device(*, is_tiny: bool) -> str:
    """
    Raises:
        ValueError: there is no GPU, and the models are the real ones
    """
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if not is_tiny:
        raise ValueError("there is no CUDA device here; --tiny runs the script on a CPU")
    return "cpu"


def _run(
    chosen: Mapping[str, Section], results: list[SectionResult], out: Path, device: str, ends_at: float,
    place: Scratch, log: IO[str], *, is_tiny: bool,
) -> None:  # fmt: skip
    """Adds to ``results``. While a section measures, the process of the next one imports its libraries."""
    waiting = list(chosen.items())
    rows = out / "rows.jsonl"
    run = {"started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "device": device, "is_tiny": is_tiny}
    started = [start(*waiting[0], place, rows, log)]
    try:
        while waiting and not (results and results[-1].outcome == "interrupted"):
            (name, section), waiting = waiting[0], waiting[1:]
            started += [start(*each, place, rows, log) for each in waiting[:1]]
            rest = section.seconds + sum(each.seconds for _, each in waiting)
            limit_s = max(0.0, ends_at - time.monotonic()) * section.seconds / rest
            print(f"{name}: at most {limit_s:.0f} s", file=sys.stderr, flush=True)
            results.append(measure(started.pop(0), device, limit_s, place, is_tiny=is_tiny))
            print(f"{name}: {results[-1].outcome} after {results[-1].seconds:.0f} s", file=sys.stderr, flush=True)
            write_results(out / "results.json", run, results)
    finally:
        for left in started:
            end(left)


def write_results(path: Path, run: Mapping[str, Any], results: Sequence[SectionResult]) -> None:
    """Whole or not at all."""
    unfinished = path.with_suffix(".part")
    content = {"run": run, "sections": [result.as_json() for result in results]}
    unfinished.write_text(json.dumps(content, indent=1))
    os.replace(unfinished, path)


if __name__ == "__main__":
    sys.exit(main())
