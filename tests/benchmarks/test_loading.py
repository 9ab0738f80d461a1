"""What a run holds of its rows does not grow while it goes through them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_memory_is_flat_over_an_epoch_of_100_000_rows() -> None:
    command = [sys.executable, "-m", "benchmarks.loading", "--num-rows", "100000"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    lines = done.stdout.splitlines()
    held = {line[:28].strip(): int(line.split(" s ")[1].split()[0]) for line in lines if " MiB mapped" in line}
    assert len(held) == 24, "four stages and twenty parts of the epoch"
    assert held["images and prompts checked"] - held["rows read once"] < 32
    assert held["100 % of an epoch drawn"] - held["5 % of an epoch drawn"] < 32
    assert held["rows read once"] - held["model loaded"] < 200, "2 kB a row: ids, not pictures"
