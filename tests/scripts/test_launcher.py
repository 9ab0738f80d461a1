"""``scripts/train.sh``: what it makes of its environment. An interpreter that only tells how it was called runs it.

So ``scripts/slurm/train.sbatch``, with a stand-in for ``srun``.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from benchmarks.models import QWEN2_5_VL_7B, QWEN2_5_VL_32B, ModelShape
from gpg_vl.planning.seconds import DISK

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
            {**NODES, "NUM_PROCESSES": "1"},  # HSDP of one GPU a node shares nothing
            "<-m><gpg_vl.launch><--nproc_per_node><1><--nnodes><4><--node_rank><3><--master_addr><node-0>"
            f"<--master_port><29500>{TRAIN} own fsdp deepspeed no",
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


# --- processors, and the time to save ---------------------------------------------------------------------------------


@pytest.fixture
def teller(tmp_path: Path) -> Path:
    """An interpreter that tells how many threads a process gets, and how long it may save."""
    path = tmp_path / "python"
    path.write_text('#!/bin/sh\nif [ "$1" = -c ]; then echo 0; else env; fi\n')
    path.chmod(0o755)
    return path


def told(teller: Path, **environment: str) -> dict[str, str]:
    done = launch(teller, **environment)
    assert done.returncode == 0, done.stderr
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize("layout", ["fsdp_offload", "zero3_offload"])
def test_an_optimizer_on_the_host_has_its_processors(teller: Path, layout: str) -> None:
    """The ranks of a node share them; elsewhere a rank has one thread. What the user has set stays."""
    cores = len(os.sched_getaffinity(0))
    for processes, threads in ((1, cores), (cores, 1), (4 * cores, 1)):
        found = told(teller, SHARDING=layout, NUM_PROCESSES=str(processes))
        assert found["OMP_NUM_THREADS"] == str(threads)
    assert told(teller, SHARDING="fsdp")["OMP_NUM_THREADS"] == "1"
    assert told(teller, SHARDING=layout, OMP_NUM_THREADS="3")["OMP_NUM_THREADS"] == "3"


def checkpoint_seconds(shape: ModelShape) -> float:
    """Of weights and two moments in float32."""
    head = shape.vocab * shape.hidden * (1 if shape.tied else 2)
    weights = shape.text_parameters + shape.vision_parameters + shape.merger_parameters + head
    return 12 * weights / DISK


def test_there_is_time_to_save_before_a_limit(teller: Path) -> None:
    """For 7B behind a save that has just begun and a pass of two minutes; for 32B two saves, or one and a long pass."""
    given = int(told(teller)["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"])
    assert 100 < checkpoint_seconds(QWEN2_5_VL_7B) < 120
    assert given > 2 * checkpoint_seconds(QWEN2_5_VL_7B) + 120
    assert given > 2 * checkpoint_seconds(QWEN2_5_VL_32B)
    job = (REPOSITORY / "scripts/slurm/train.sbatch").read_text()
    assert re.findall(r"^#SBATCH --signal TERM@(\d+)$", job, re.MULTILINE) == [str(given)], "Slurm gives as long"


SRUN = """#!/bin/sh
echo "SRUN_CPUS_PER_TASK=${SRUN_CPUS_PER_TASK-unset} MASTER_ADDR=$MASTER_ADDR"
"""
SCONTROL = """#!/bin/sh
echo node-0
sleep 0.3
echo node-1
"""


@pytest.mark.parametrize(("cores", "given"), [({"SLURM_CPUS_PER_TASK": "16"}, "16"), ({}, "unset")])
def test_slurms_tasks_get_the_processors_of_the_job(tmp_path: Path, cores: dict[str, str], given: str) -> None:
    """``srun`` does not take the number from ``sbatch``. The first node is the one to meet at, however slowly named."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    job = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "node-[0-1]", **cores}
    command = ["bash", str(REPOSITORY / "scripts/slurm/train.sbatch"), *WORDS]
    done = subprocess.run(command, env=job, capture_output=True, text=True, check=True)
    assert done.stdout == f"SRUN_CPUS_PER_TASK={given} MASTER_ADDR=node-0\n"
