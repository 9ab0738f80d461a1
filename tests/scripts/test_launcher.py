"""``scripts/train.sh``: what it makes of its environment. An interpreter that only tells how it was called runs it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent.parent
WORDS = ["my recipe.yaml", "--run.steps", "6"]


@pytest.fixture
def interpreter(tmp_path: Path) -> Path:
    """As Python on a machine with two GPUs: it counts them, and prints its words and what is to be shared."""
    path = tmp_path / "python"
    path.write_text(
        """#!/usr/bin/env bash
if [[ $1 == -c ]]; then echo 2; exit; fi
printf '<%s>' "$@"
echo " own ${GPG_VL_SHARDING:--} deepspeed ${ACCELERATE_USE_DEEPSPEED:-no} ${ACCELERATE_DEEPSPEED_CONFIG_FILE##*/}"
"""
    )
    path.chmod(0o755)
    return path


def launch(interpreter: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(interpreter), **environment}
    command = [str(REPOSITORY / "scripts/train.sh"), *WORDS]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=interpreter.parent)


TRAIN = "<-m><gpg_vl><train><my recipe.yaml><--run.steps><6>"
ON_TWO_GPUS = "<-m><gpg_vl.launch><--nproc_per_node><2><--standalone>"
NODES = {"NNODES": "4", "NODE_RANK": "3", "MASTER_ADDR": "node-0"}


@pytest.mark.parametrize(
    ("environment", "called"),
    [
        ({}, f"{ON_TWO_GPUS}{TRAIN} own fsdp deepspeed no"),
        ({"SHARDING": "none"}, f"{ON_TWO_GPUS}{TRAIN} own none deepspeed no"),
        ({"SHARDING": "fsdp_offload"}, f"{ON_TWO_GPUS}{TRAIN} own fsdp_offload deepspeed no"),
        ({"DEEPSPEED": "zero0"}, f"{ON_TWO_GPUS}{TRAIN} own none deepspeed no"),
        ({"NUM_PROCESSES": "1"}, f"{TRAIN} own none deepspeed no"),
        (
            {"SHARDING": "hsdp", "NUM_PROCESSES": "1"},
            f"<-m><gpg_vl.launch><--nproc_per_node><1><--standalone>{TRAIN} own hsdp deepspeed no",
        ),
        (
            {**NODES, "GPG_VL_SHARDING": "fsdp"},
            "<-m><gpg_vl.launch><--nproc_per_node><2><--nnodes><4><--node_rank><3><--master_addr><node-0>"
            f"<--master_port><29500>{TRAIN} own hsdp deepspeed no",
        ),
        (
            {"SHARDING": "zero3", "DEEPSPEED": "zero3", "GPG_VL_SHARDING": "fsdp"},
            f"{ON_TWO_GPUS}{TRAIN} own - deepspeed true zero3.json",
        ),
        (
            {"NUM_PROCESSES": "3", "DEEPSPEED": "zero3_offload"},
            f"<-m><gpg_vl.launch><--nproc_per_node><3><--standalone>{TRAIN} own - deepspeed true zero3_offload.json",
        ),
        (
            {"DEEPSPEED": "zero2", "MASTER_PORT": "1234"},
            "<-m><gpg_vl.launch><--nproc_per_node><2><--master_addr><127.0.0.1><--master_port><1234>"
            f"{TRAIN} own - deepspeed true zero2.json",
        ),
        (
            {**NODES, "DEEPSPEED": "zero1"},
            "<-m><gpg_vl.launch><--nproc_per_node><2><--nnodes><4><--node_rank><3><--master_addr><node-0>"
            f"<--master_port><29500>{TRAIN} own - deepspeed true zero1.json",
        ),
    ],
)
def test_the_environment_becomes_the_launchers_words(
    interpreter: Path, environment: dict[str, str], called: str
) -> None:
    done = launch(interpreter, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == called
    asked = next((f"{key}={environment[key]}" for key in ("DEEPSPEED", "SHARDING") if key in environment), "SHARDING=")
    assert done.stderr.startswith(f"+ {asked}"), "it prints the command that it runs"
    assert f" {interpreter} -m gpg_vl" in done.stderr
    assert done.stderr.endswith("train my\\ recipe.yaml --run.steps 6\n")


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"DEEPSPEED": "zero4"}, ["DEEPSPEED=zero4", "zero0", "zero1", "zero2", "zero3", "zero3_offload"]),
        ({"SHARDING": "zero0"}, ["SHARDING=zero0", "none", "fsdp", "hsdp", "fsdp_offload", "zero1", "zero3_offload"]),
        ({"SHARDING": "fsdp", "DEEPSPEED": "zero2"}, ["SHARDING=fsdp", "DEEPSPEED=zero2"]),
        ({"NUM_PROCESSES": "all"}, ["NUM_PROCESSES=all", "1"]),
        ({"NNODES": "0"}, ["NNODES=0", "1"]),
        ({"NNODES": "2"}, ["NODE_RANK", "0 .. NNODES-1"]),
        ({"NNODES": "2", "NODE_RANK": "0"}, ["MASTER_ADDR", "node 0"]),
    ],
)
def test_mistakes_in_the_environment(interpreter: Path, environment: dict[str, str], named: list[str]) -> None:
    done = launch(interpreter, **environment)
    assert done.returncode != 0
    assert all(name in done.stderr for name in named), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
