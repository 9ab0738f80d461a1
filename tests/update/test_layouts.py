"""The gradient of two ranks in every layout, by real DeepSpeed on CPU ranks, against that of plain rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.models.tiny import write_tiny_model

TESTS = Path(__file__).parents[1]
SECONDS = 280  # of a start that takes 30, on a busy machine


@pytest.fixture(scope="session")
def folders(model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Tied and untied head, and both families."""
    untied = tmp_path_factory.mktemp("untied") / "untied"
    write_tiny_model(untied, family="qwen2_5_vl", seed=1, tie_word_embeddings=False)
    return [model_folders["qwen2_vl"], untied]


def measure_gradients(deepspeed: str, folders: list[Path]) -> list[dict[str, Any]]:
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
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.timeout(SECONDS + 20)
@pytest.mark.parametrize(
    ("deepspeed", "layout"),
    [
        ("zero0", "Replicated"),
        pytest.param("zero1", "ShardedOptimizer", marks=pytest.mark.faults),
        pytest.param("zero2", "ShardedGradients", marks=pytest.mark.faults),
        ("zero3", "ShardedGradients"),
        pytest.param("zero3_offload", "ShardedGradients", marks=pytest.mark.faults),
    ],
)
def test_gradient_of_two_ranks_is_that_of_plain_rows(deepspeed: str, layout: str, folders: list[Path]) -> None:
    rows = measure_gradients(deepspeed, folders)
    assert {row["layout"] for row in rows} == {layout}
    right = [row for row in rows if not row["mutation"]]
    assert len(right) == (11 if deepspeed == "zero0" else 10)
    for row in right:
        assert max(row["errors"]) < (1e-6 if row["dtype"] == "torch.float64" else 1e-5), row
    mutated = [row for row in rows if row["mutation"]]
    assert len(mutated) == (2 if layout == "ShardedGradients" else 1)
    for row in mutated:
        assert min(row["errors"]) > 1e-2, row
