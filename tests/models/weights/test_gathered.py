"""Two ranks gather the weights that they share: each in the type that it is computed in, and a block at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.rank_runs import SECONDS, run_ranks


@pytest.mark.timeout(SECONDS + 20)
@pytest.mark.parametrize("layout", [pytest.param("fsdp", marks=pytest.mark.faults), "zero3"])
def test_what_two_ranks_gather_is_what_one_process_has(model_folders: dict[str, Path], layout: str) -> None:
    rows = run_ranks("gathered_ranks.py", layout, [model_folders["qwen2_vl"]])
    assert [row["lora"] for row in rows] == [False, False, True, True]
    for row in rows:
        assert row["is_same_sample"] and row["has_types"] and row["is_taken"] and row["is_sharded"]
        assert row["is_for_float32"], "layers that are widened as they run are rounded before"
        assert row["most"] <= row["all"] / 2, "a block at a time"
    assert [row["is_saved"] for row in rows] == [True, False] * 2, "the first rank alone has what its folder holds"
    assert [row["is_same_folder"] for row in rows] == [True, False] * 2, "to the last bit"
