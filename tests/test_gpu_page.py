"""The table of layouts in docs/gpu.md: what ``python -m benchmarks.scale --layouts`` says, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.models import QWEN2_5_VL_3B, QWEN2_5_VL_7B, QWEN2_5_VL_32B, QWEN2_VL_2B
from benchmarks.scale import TRAININGS, describe_layouts
from gpg_vl.planning.cards import CARDS

DOCS = Path(__file__).parents[1] / "docs"
MODELS = tuple(shape.name for shape in (QWEN2_VL_2B, QWEN2_5_VL_3B, QWEN2_5_VL_7B, QWEN2_5_VL_32B))


def rows_of(page: str) -> list[list[str]]:
    """Model, training, cells of 1, 8 and 2 x 8 cards."""
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [row[:5] for row in cells if row[0] in MODELS and row[1] in TRAININGS]


def test_the_table_has_each_model_in_each_way_to_train() -> None:
    assert [tuple(row[:2]) for row in rows_of("gpu.md")] == [(name, way) for name in MODELS for way in TRAININGS]
    assert rows_of("cluster.md") == [], "one copy"
    text = (DOCS / "gpu.md").read_text(encoding="utf-8")
    assert f"python -m benchmarks.scale --layouts --model {' '.join(MODELS)}\n" in text


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", MODELS)
def test_the_table_is_what_the_command_prints(name: str) -> None:
    """Which says of each machine's memory and of seconds too."""
    said = [row for row in rows_of("gpu.md") if row[0] == name]
    printed = [line.strip("|").split("|") for line in describe_layouts(name, CARDS["h100-80"])]
    for row, found in zip(said, printed, strict=True):
        assert all(each.strip().startswith(cell) for cell, each in zip(row, found, strict=True)), (row, found)
