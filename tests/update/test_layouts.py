"""The gradient of ranks in every layout, by FSDP2 and real DeepSpeed on CPU ranks, against that of plain rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpg_vl.models.tiny import write_tiny_model
from tests.support.rank_runs import SECONDS, measure_gradients

SHARED = (
    *(("fsdp", num_ranks, 1) for num_ranks in (1, 3, 4)),
    ("fsdp_offload", 2, 1),
    *(("hsdp", num_ranks, num_nodes) for num_ranks, num_nodes in ((1, 1), (2, 2), (3, 3), (4, 2))),
)


@pytest.fixture(scope="session")
def folders(model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Tied and untied head, and both families."""
    untied = tmp_path_factory.mktemp("untied") / "untied"
    write_tiny_model(untied, family="qwen2_5_vl", seed=1, tie_word_embeddings=False)
    return [model_folders["qwen2_vl"], untied]


@pytest.mark.timeout(SECONDS + 20)
@pytest.mark.parametrize(
    ("deepspeed", "layout"),
    [
        pytest.param("zero0", "Replicated", marks=[pytest.mark.faults, pytest.mark.faults_ci]),
        pytest.param("fsdp", "FullySharded", marks=[pytest.mark.faults, pytest.mark.faults_ci]),
        pytest.param("zero1", "ShardedOptimizer", marks=pytest.mark.faults),
        pytest.param("zero2", "ShardedGradients", marks=pytest.mark.faults),
        ("zero3", "ShardedGradients"),
        pytest.param("zero3_offload", "ShardedGradients", marks=pytest.mark.faults),
    ],
)
def test_gradient_of_two_ranks_is_that_of_plain_rows(deepspeed: str, layout: str, folders: list[Path]) -> None:
    check_rows(measure_gradients(deepspeed, folders), layout)


@pytest.mark.faults
@pytest.mark.timeout(2 * SECONDS + 20)
@pytest.mark.parametrize(("layout", "num_ranks", "num_nodes"), SHARED)
def test_gradient_under_fsdp2_is_that_of_plain_rows(
    layout: str, num_ranks: int, num_nodes: int, folders: list[Path]
) -> None:
    """Weights are cut where two ranks do not cut them, and some shares are empty; one rank has no groups at all."""
    rows = measure_gradients(layout, folders, 2 * SECONDS, num_ranks, num_nodes)
    check_rows(rows, "FullySharded", has_fillers=num_ranks > 1)


def check_rows(rows: list[dict[str, Any]], layout: str, *, has_fillers: bool = True) -> None:
    assert {row["layout"] for row in rows} == {layout}
    right = [row for row in rows if not row["mutation"]]
    assert len(right) == {"Replicated": 14, "FullySharded": 18}.get(layout, 13)
    for row in right:
        assert max(row["errors"]) < (1e-6 if row["dtype"] == "torch.float64" else 1e-5), row
    assert all(min(row["num_groups"]) > 0 for row in right if row["is_dealt"]), "each rank gets a group"
    mutated = [row for row in rows if row["mutation"]]
    assert len(mutated) == (2 if layout in ("ShardedGradients", "FullySharded") and has_fillers else 1)
    for row in mutated:
        assert min(row["errors"]) > 1e-2, row
