"""A run on two nodes, rehearsed with processes of one machine: it loses a node, is told to stop, and ends as ever."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from gpg_vl.run.run_log import read_metrics
from tests.support.messages import lines_naming
from tests.support.tiny_runs import last_saved_step, last_step, wait_for, write_recipe_folder
from tests.support.two_nodes import Nodes, start_by_slurm, start_by_torchrun, tell_to_stop

SECONDS = 600  # of a run that ought to take 30, on a busy machine

pytestmark = [pytest.mark.faults, pytest.mark.timeout(4 * SECONDS)]


@pytest.mark.parametrize(
    ("start", "num_ranks", "lost"),
    [pytest.param(start_by_torchrun, 2, 0, id="torchrun"), pytest.param(start_by_slurm, 4, 1, id="Slurm")],
)
def test_two_nodes(
    tmp_path: Path, model_folders: dict[str, Path], start: Callable[[Path, list[str]], Nodes], num_ranks: int, lost: int
) -> None:
    """HSDP, in one case over two ranks of each node. The node that is lost is the first, which all others
    connect to, or the second.

    Slurm's notice that time runs out goes to the task of each node, which is its launcher; a user who stops a run by
    hand signals one launcher. In both cases all ranks save the last finished step. That a run which goes on is the
    same as one that never stopped is tested elsewhere (``test_rank_checkpoints.py``).
    """
    keys = {"run": {"steps": 5, "save_every": 1, "save_total_limit": 2}}
    folder = write_recipe_folder(tmp_path / "runs", model_folders["qwen2_vl"], keys)
    run, log, words = folder / "run", folder / "log.txt", ["recipe.yaml", "--run.output_dir", "run"]

    nodes = start(folder, words)
    wait_for(lambda: last_saved_step(run) >= 1, SECONDS)
    others = nodes.processes(1 - lost)
    nodes.kill(lost)
    assert 0 not in nodes.join(SECONDS), log.read_text()
    assert_ended(others)
    reached = last_saved_step(run)
    assert lines_naming(log.read_text(), f"{num_ranks} ranks", "HSDP")

    nodes = start(folder, words)
    wait_for(lambda: last_step(run) > reached, SECONDS)
    everything = [*nodes.processes(0), *nodes.processes(1)]
    tell_to_stop(nodes.launchers() if start is start_by_slurm else nodes.launchers()[1:])
    assert set(nodes.join(SECONDS)) == {143}, log.read_text()
    assert_ended(everything)
    assert last_saved_step(run) == last_step(run) > reached
    assert lines_naming(log.read_text(), "resuming", "run", f"step {reached}")

    assert set(start(folder, words).join(SECONDS)) == {0}, log.read_text()
    assert [row["step"] for row in read_metrics(run)] == list(range(1, 6))
    assert log.read_text().count("done: run/checkpoint-5") == 1


def assert_ended(processes: list[psutil.Process]) -> None:
    assert not psutil.wait_procs(processes, timeout=60)[1], "nothing is left behind"
