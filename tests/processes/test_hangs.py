"""A process that is alone and calls what may never come back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.messages import lines_naming

ROOT = Path(__file__).parents[2]

SCRIPT = """
import sys, time
from gpg_vl.processes.hangs import beating_watched
from gpg_vl.processes.pulse import PULSE
from gpg_vl.processes.rank_watch import ranks_end_together

def answer(seconds):
    time.sleep(seconds)

with ranks_end_together(4.0):
    with beating_watched("the rollout"):
        for _ in range(6):
            PULSE.beat()
            answer(1)
    answer(6)  # of which nobody knows how long it takes
    print("went on", flush=True)
    with beating_watched("the rollout"):
        answer(120)
print("came back")
"""


def test_a_process_that_is_alone_ends_where_what_it_calls_does_not_come_back() -> None:
    """With the stacks of its threads; not where that goes on, nor where it does something else."""
    alone = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env={**alone, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False, timeout=280,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "went on\n"), done.stderr
    assert lines_naming(done.stderr, "this process ends", "no progress for 4 s in the rollout", "stacks")
    assert lines_naming(done.stderr, "File", "line", "in answer") and lines_naming(done.stderr, "the same command")
