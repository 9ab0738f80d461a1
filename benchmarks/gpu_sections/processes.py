"""Each section in a process of its own, ended at its deadline; nothing that it writes outlives the run.

A section may hang inside a C call, be killed by the system, or wait for a card that no longer answers: only a process
can be ended in each of these. All its files go to one passing folder, home and temporary files included. A shell waits
for this process to end, however it ends, then ends what still runs and removes that folder.
"""

from __future__ import annotations

import json
import os
import signal
import site
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from benchmarks.gpu_sections.progress import read_rows
from benchmarks.gpu_sections.records import Outcome, Section, SectionResult, Setting

ROOT = Path(__file__).parents[2]
CACHE_VARIABLES = ("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "TRITON_CACHE_DIR", "TRITON_HOME",
                   "TORCHINDUCTOR_CACHE_DIR", "CUDA_CACHE_PATH", "XDG_CACHE_HOME", "TORCH_EXTENSIONS_DIR",
                   "MPLCONFIGDIR")  # fmt: skip
"""Without them every cache is below the home folder or that of temporary files."""
CPU_DEFAULTS = {"OMP_NUM_THREADS": "1"}
"""Tiny models gain nothing from threads, and threads that wait for each other are slow on a busy machine."""
SECONDS_TO_DIE = 10.0
"""After SIGKILL; a process that the driver holds does not end, and is left behind."""
_SWEEP = """
while read -r group; do last=$group; done
[ "${last:-0}" -gt 1 ] && kill -s KILL -- "-$last" 2> /dev/null
rm -rf "$0"
"""


class Scratch:
    """A folder for everything that sections write on the side."""

    def __init__(self, device: str) -> None:
        self._device = device
        self.folder = Path(tempfile.mkdtemp(prefix="gpg-vl-gpu-"))
        (self.folder / "tmp").mkdir()
        self._sweeper = subprocess.Popen(
            ["/bin/sh", "-c", _SWEEP, str(self.folder)], stdin=subprocess.PIPE, text=True, start_new_session=True
        )

    def watch(self, process_group: int) -> None:
        """The group that is ended when this process is gone; 0 for none."""
        assert self._sweeper.stdin is not None
        self._sweeper.stdin.write(f"{process_group}\n")
        self._sweeper.stdin.flush()

    def remove(self) -> None:
        assert self._sweeper.stdin is not None
        self._sweeper.stdin.close()
        self._sweeper.wait()

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in CACHE_VARIABLES}
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        return (CPU_DEFAULTS if self._device == "cpu" else {}) | kept | {
            "HOME": str(self.folder), "TMPDIR": str(self.folder / "tmp"), "PYTHONPATH": path,
            "PYTHONUSERBASE": site.getuserbase(), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1",
        }  # fmt: skip


@contextmanager
def scratch(device: str) -> Iterator[Scratch]:
    made = Scratch(device)
    try:
        yield made
    finally:
        made.remove()


@dataclass(frozen=True)
class SectionProcess:
    """A section that has been started and waits for its setting."""

    name: str
    rows: Path
    process: subprocess.Popen[str]


def start(name: str, section: Section, place: Scratch, rows: Path, log: IO[str]) -> SectionProcess:
    """
    Args:
        rows: file that the rows of all sections are appended to
    """
    rows.touch()
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.gpu_sections.child", name, section.module, str(rows)],
        stdin=subprocess.PIPE, stdout=log, stderr=log, text=True, env=place.environment(), start_new_session=True,
    )  # fmt: skip
    return SectionProcess(name, rows, process)


def measure(started: SectionProcess, device: str, limit_s: float, place: Scratch, *, is_tiny: bool) -> SectionResult:
    """Lets the section go on and waits for it, ``limit_s`` seconds at most."""
    begun = time.monotonic()
    place.watch(started.process.pid)
    _send(started, Setting(device, is_tiny, begun + limit_s))
    ending: tuple[Outcome, str] | None = None
    try:
        started.process.wait(limit_s)
    except subprocess.TimeoutExpired:
        ending = "timed out", f"ended after {limit_s:.0f} s"
    except KeyboardInterrupt:
        ending = "interrupted", "the whole run was"
    code = started.process.poll()
    end(started)
    place.watch(0)
    rows, last = read_rows(started.rows, started.name, time.monotonic())
    outcome, error = ending or _outcome(code, last)
    return SectionResult(started.name, outcome, time.monotonic() - begun, limit_s, error, rows)


def end(started: SectionProcess) -> None:
    """Ends the process and those that it started."""
    with suppress(ProcessLookupError):
        os.killpg(started.process.pid, signal.SIGKILL)
    try:
        started.process.wait(SECONDS_TO_DIE)
    except subprocess.TimeoutExpired:
        print(f"section {started.name} does not end; it is left behind", file=sys.stderr)


def _send(started: SectionProcess, setting: Setting) -> None:
    assert started.process.stdin is not None
    with suppress(BrokenPipeError):  # where it failed before it was asked, its rows say how
        started.process.stdin.write(json.dumps(asdict(setting)) + "\n")
        started.process.stdin.close()


def _outcome(code: int | None, last: dict[str, Any]) -> tuple[Outcome, str]:
    if code == 0:
        return "ok", ""
    if last:
        return "out of memory" if last["is_memory"] else "failed", last["error"]
    if code is not None and code < 0:
        return "died", f"of signal {signal.Signals(-code).name}"
    return "died", f"with exit code {code}; see log.txt"
