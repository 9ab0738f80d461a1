"""Two nodes on one machine: a run that ``scripts/train.sh`` starts on each, or Slurm by ``scripts/slurm/train.sbatch``.

Slurm's own commands are replaced by what the script needs of them: ``srun`` starts a task on each node, passes on what
the job is signalled, and ends the others where one fails; ``scontrol`` names the nodes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.tiny_runs import REPOSITORY, free_port

SRUN = """#!/usr/bin/env bash
[[ " $* " == *" --kill-on-bad-exit=1 "* ]] && kills=1
while [[ $1 == --* ]]; do shift; done
tasks=()
for ((node = 0; node < SLURM_NNODES; node++)); do
    SLURM_NODEID=$node "$@" &
    tasks+=($!)
    echo $! > "$SLURM_TASKS/$node"
done
code=0
for _ in "${tasks[@]}"; do
    wait -n || { failed=$?; [[ $code -ne 0 ]] || { code=$failed; [[ -z $kills ]] || kill -TERM "${tasks[@]}"; }; }
done
exit $code
"""
SCONTROL = """#!/usr/bin/env bash
[[ "$*" == "show hostnames node[0-1]" ]] || exit 1
echo 127.0.0.1
echo 127.0.0.1
"""


@dataclass(frozen=True)
class Nodes:
    """A run that was started on two of them."""

    commands: list[subprocess.Popen[bytes]]  # what the user started
    launchers: Callable[[], list[int]]  # the process on each node that starts its ranks

    def processes(self, node: int) -> list[psutil.Process]:
        """The launcher of a node and all that it started."""
        launcher = psutil.Process(self.launchers()[node])
        return [launcher, *launcher.children(recursive=True)]

    def kill(self, node: int) -> None:
        """As if it lost its power."""
        for process in self.processes(node):
            process.kill()

    def join(self, seconds: float) -> list[int]:
        """The exit codes of what the user started; ends all that is left where they do not end."""
        end = time.monotonic() + seconds
        try:
            return [each.wait(max(0.1, end - time.monotonic())) for each in self.commands]
        finally:
            for each in self.commands:
                if each.poll() is None:
                    for process in [*psutil.Process(each.pid).children(recursive=True), each]:
                        process.kill()


def start_by_torchrun(folder: Path, words: Sequence[str]) -> Nodes:
    """A launcher on each node, as ``docs/cluster.md`` has it, with one rank. What they say is added to ``log.txt``."""
    port = str(free_port())
    nodes = [
        _start(folder, ["bash", str(REPOSITORY / "scripts/train.sh"), *words],
               {"NNODES": "2", "NODE_RANK": str(node), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port})
        for node in range(2)
    ]  # fmt: skip
    return Nodes(nodes, lambda: [each.pid for each in nodes])


def start_by_slurm(folder: Path, words: Sequence[str]) -> Nodes:
    """A job of two nodes with two ranks each, from a folder that has ``scripts`` as a checkout does."""
    tools = folder / "slurm"
    tools.mkdir(exist_ok=True)
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    if not (folder / "scripts").exists():
        (folder / "scripts").symlink_to(REPOSITORY / "scripts")
    for task in tools.glob("[01]"):
        task.unlink()
    job = _start(folder, ["bash", "scripts/slurm/train.sbatch", *words], {
        "PATH": f"{tools}:{os.environ['PATH']}", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "node[0-1]",
        "SLURM_TASKS": str(tools), "MASTER_PORT": str(free_port()), "NUM_PROCESSES": "2",
    })  # fmt: skip
    return Nodes([job], lambda: [int((tools / str(node)).read_text()) for node in range(2)])


def _start(folder: Path, command: Sequence[str], more: dict[str, str]) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(REPOSITORY), "NUM_PROCESSES": "1",
        "SHARDING": "hsdp", "OMP_NUM_THREADS": "1", **more,
    }  # fmt: skip
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)


def tell_to_stop(launchers: Sequence[int]) -> None:
    for launcher in launchers:
        os.kill(launcher, signal.SIGTERM)
