"""A rank of two that makes no progress: it is named, both end with their stacks in the log, and the run resumes."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from gpg_vl.models.folder.paths import find_checkpoints
from gpg_vl.run.run_log import read_metrics
from tests.support.messages import lines_naming
from tests.support.tiny_runs import fork_ranks, join_ranks, train_words, wait_for, write_recipe_folder

HANG_SECONDS = 30  # in which a pass and a step of the tiny model end, on a busy machine
SECONDS = 200  # of a run that ought to take 20, on a busy machine

pytestmark = pytest.mark.faults


@pytest.fixture
def folder(tmp_path: Path, model_folders: dict[str, Path]) -> Path:
    keys = {"objective": {"beta_th": 0.0}, "run": {"steps": 3, "save_every": 1, "hang_timeout_s": HANG_SECONDS}}
    return write_recipe_folder(tmp_path / "runs", model_folders["qwen2_vl"], keys)


@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.parametrize(
    ("layout", "rank", "work"),
    [
        ("fsdp", 1, "backward"),
        ("fsdp", 0, "backward"),
        ("zero0", 1, "backward"),
        ("zero3", 1, "rollout"),
        ("fsdp", 1, "save"),
        ("zero3", 0, "save"),
    ],
)
def test_a_rank_that_hangs_is_named_and_all_end(folder: Path, layout: str, rank: int, work: str) -> None:
    """Under FSDP2 the other rank waits in the middle of its own backward, and makes no progress either."""
    words, log = [*train_words("run"), "--task", "counting"], folder / "log.txt"
    ranks = fork_ranks(folder, words, layout, faults={rank: f"tests.support.run_faults:hang_in_{work}"})
    wait_for(lambda: log.is_file() and "hanging at" in log.read_text(), SECONDS)
    children = [child for each in ranks for child in psutil.Process(each.pid).children(recursive=True)]
    assert join_ranks(ranks, SECONDS) == [1, 1], log.read_text()
    ended = time.time()
    [started] = [float(line.split()[-1]) for line in log.read_text().splitlines() if line.startswith("hanging at")]
    assert HANG_SECONDS < ended - started < HANG_SECONDS + 30
    assert children and not psutil.wait_procs(children, timeout=20)[1], "nothing is left behind"
    text = log.read_text()
    [line] = lines_naming(text, f"rank {rank} hangs", work, f"{HANG_SECONDS} s", "the same command")
    assert "pass 1 of" in line or work != "backward"
    for each in (0, 1):
        assert len(lines_naming(text, f"rank {each} ends", f"rank {rank} hangs", "stacks")) == 1
    assert len(lines_naming(text, "run_faults.py", "in hang")) == 1, "where it is"
    assert text.count("MainThread:") == 2, "and where both are"
    assert [path.name for path in find_checkpoints(folder / "run")] == ["checkpoint-1"]
    assert join_ranks(fork_ranks(folder, words, layout), SECONDS) == [0, 0], log.read_text()
    assert lines_naming(log.read_text(), "run", "step 1", "resuming")
    assert [row["step"] for row in read_metrics(folder / "run")] == [1, 2, 3]
