"""The gradient of two ranks in every layout, by real DeepSpeed on CPU ranks, against that of plain rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpg_vl.models.tiny import write_tiny_model
from tests.support.rank_runs import SECONDS, measure_gradients


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
    assert len(right) == (13 if deepspeed == "zero0" else 12)
    for row in right:
        assert max(row["errors"]) < (1e-6 if row["dtype"] == "torch.float64" else 1e-5), row
    mutated = [row for row in rows if row["mutation"]]
    assert len(mutated) == (2 if layout == "ShardedGradients" else 1)
    for row in mutated:
        assert min(row["errors"]) > 1e-2, row
