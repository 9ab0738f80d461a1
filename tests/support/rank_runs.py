"""Starts scripts of this folder on ranks of this machine and reads what they print."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.tiny_runs import free_port

TESTS = Path(__file__).parents[1]
SECONDS = 280  # of a start that takes 30, on a busy machine


OWN_LAYOUTS = {"zero0": "none", "fsdp": "fsdp", "hsdp": "hsdp", "fsdp_offload": "fsdp_offload"}
"""Those without DeepSpeed, as ``SHARDING`` calls them."""


def measure_gradients(
    deepspeed: str, folders: Sequence[Path], seconds: float = SECONDS, num_ranks: int = 2, num_nodes: int = 1
) -> list[dict[str, Any]]:
    """The rows of ``rank_gradients.py``; for the arguments see ``run_ranks``."""
    return run_ranks("rank_gradients.py", deepspeed, folders, seconds, num_ranks, num_nodes)


def run_ranks(
    script: str,
    deepspeed: str,
    words: Sequence[Path],
    seconds: float = SECONDS,
    num_ranks: int = 2,
    num_nodes: int = 1,
) -> list[dict[str, Any]]:
    """The lines of JSON that a script prints.

    Args:
        deepspeed: a file of ``scripts/deepspeed``, or of ``OWN_LAYOUTS``
        num_nodes: launchers that share the ranks, as of several machines
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(TESTS.parent),
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "MASTER_PORT": str(free_port()),
    }
    if deepspeed in OWN_LAYOUTS:
        environment |= {"ACCELERATE_USE_CPU": "true", "GPG_VL_SHARDING": OWN_LAYOUTS[deepspeed]}
    else:
        environment["ACCELERATE_USE_DEEPSPEED"] = "true"
        environment["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = str(TESTS.parent / f"scripts/deepspeed/{deepspeed}.json")
    command = [str(TESTS / "support" / script), *map(str, words)]
    launchers = [_launch(node, num_nodes, num_ranks // num_nodes, command, environment) for node in range(num_nodes)]
    outs = [launcher.communicate(timeout=seconds) for launcher in launchers]
    assert not any(launcher.returncode for launcher in launchers), outs
    return [json.loads(line) for out, _ in outs for line in out.splitlines() if line.startswith("{")]


def _launch(
    node: int, num_nodes: int, num_ranks: int, command: Sequence[str], environment: dict[str, str]
) -> subprocess.Popen[str]:
    """
    Args:
        num_ranks: of the node
    """
    where = ["--standalone"]
    if num_nodes > 1:
        where = ["--nnodes", str(num_nodes), "--node_rank", str(node), "--master_addr", "127.0.0.1"]
        where += ["--master_port", environment["MASTER_PORT"]]
    launcher = [sys.executable, "-m", "gpg_vl.launch", *where, "--nproc_per_node", str(num_ranks)]
    return subprocess.Popen(
        [*launcher, *command], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
