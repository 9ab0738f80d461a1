"""The engine ``vllm`` on ranks that share the policy's weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.rank_runs import SECONDS, run_ranks


@pytest.mark.timeout(SECONDS + 20)
@pytest.mark.parametrize("layout", ["fsdp", "zero3"])
def test_ranks_hold_whole_weights_no_longer_than_they_may_be_needed(
    model_folders: dict[str, Path], tmp_path: Path, layout: str
) -> None:
    """While engines sample, each has its shards alone, unless ``hf`` may have to take over.

    The first time, whole ones are compared with what an engine samples; from then on an engine in the process is given
    one block after the other, also by ranks whose own engine fails meanwhile.
    """
    *rows, broken = run_ranks("served_ranks.py", layout, [model_folders["qwen2_vl"], tmp_path])
    assert broken["failure"].startswith("rank 1: the vllm of this process has failed")
    settings = [(row["mode"], row["on_failure"]) for row in rows[::2]]
    assert settings == [("server", "stop"), ("server", "hf"), ("colocate", "stop")] and len(rows) == 6
    assert [row["first_server"] for row in rows] == [0, 1] * 3
    for row in rows:
        assert row["started"] == [2] and row["too_little"] == "rank 1: no", "each knows of the other"
        assert row["whole"] == [True, row["on_failure"] == "hf"]
        assert row["is_same"] and row["is_sharded"] and row["failure"] == "rank 1: no"
        assert row["given_whole"] == ([True, False, False, False] if row["mode"] == "colocate" else [])
