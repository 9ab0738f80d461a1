"""Starts ``rank_gradients.py`` on two ranks of this machine and reads what it prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
SECONDS = 280  # of a start that takes 30, on a busy machine


def measure_gradients(deepspeed: str, folders: Sequence[Path], seconds: float = SECONDS) -> list[dict[str, Any]]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(TESTS.parent),
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
    }
    if deepspeed == "zero0":
        environment["ACCELERATE_USE_CPU"] = "true"
    else:
        environment["ACCELERATE_USE_DEEPSPEED"] = "true"
        environment["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = str(TESTS.parent / f"scripts/deepspeed/{deepspeed}.json")
    command = [sys.executable, "-m", "gpg_vl.launch", "--standalone", "--nproc_per_node", "2"]
    command += [str(TESTS / "support/rank_gradients.py"), *map(str, folders)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=seconds)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
