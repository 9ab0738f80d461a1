"""Ranks that cannot start together: one line in all, and exit code 2 on each of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from gpg_vl.run.sealing import seal_folder
from tests.support.messages import lines_naming
from tests.support.tiny_runs import fork_ranks, join_ranks, train_words, write_recipe_folder

SECONDS = 200  # of a start that ought to take 10, on a busy machine

pytestmark = pytest.mark.faults


@pytest.fixture
def folder(tmp_path: Path, model_folders: dict[str, Path]) -> Path:
    keys = {"run": {"steps": 1, "save_every": 1}}
    return write_recipe_folder(tmp_path / "runs", model_folders["qwen2_vl"], keys)


def one_line(folder: Path, exit_codes: Sequence[int | None]) -> str:
    """What all ranks have said of their end."""
    said = (folder / "log.txt").read_text()
    assert list(exit_codes) == [2] * len(exit_codes), said
    assert "Traceback" not in said
    [line] = [line for line in said.splitlines() if line.startswith("gpg-vl train:")]
    return line


@pytest.mark.faults_ci
@pytest.mark.timeout(SECONDS)
def test_hsdp_on_uneven_nodes(folder: Path) -> None:
    """Three ranks on one node and one on the other: four are a multiple of one, but not of three."""
    ranks = fork_ranks(folder, train_words("run"), "hsdp", 4, nodes=[3, 1])
    line = one_line(folder, join_ranks(ranks, SECONDS))
    assert lines_naming(line, "HSDP", "1 and 3", "NUM_PROCESSES", "SHARDING=fsdp")


@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("share_everything", ["fsdp and none", "SHARDING"]),
        ("share_in_no_known_way", ["rank 1", "GPG_VL_SHARDING=some"]),
        ("see_another_folder", ["rank 1", "run.output_dir", "all nodes"]),
    ],
)
def test_something_else_on_one_rank(folder: Path, fault: str, named: list[str]) -> None:
    ranks = fork_ranks(folder, train_words("run"), "zero0", faults={1: f"tests.support.run_faults:{fault}"})
    assert lines_naming(one_line(folder, join_ranks(ranks, SECONDS)), *named)


@pytest.mark.timeout(SECONDS)
def test_a_gradient_that_the_layout_does_not_take(folder: Path) -> None:
    words = ["--task", "counting", "--objective.name", "gapo", "--objective.discriminator_gradient", "relaxed"]
    ranks = fork_ranks(folder, [*train_words("run"), *words], "fsdp")
    assert lines_naming(one_line(folder, join_ranks(ranks, SECONDS)), "objective.discriminator_gradient", "relaxed")


@pytest.mark.timeout(2 * SECONDS)
def test_moments_of_another_shape(folder: Path) -> None:
    """Sealed, so that only what restores them can see it."""
    assert join_ranks(fork_ranks(folder, train_words("run"), "fsdp"), SECONDS) == [0, 0]
    (folder / "log.txt").unlink()
    path = folder / "run/checkpoint-1/training_state/optimizer-1.safetensors"
    save_file({name: each.flatten()[:1].clone() for name, each in load_file(path).items()}, path)
    seal_folder(folder / "run/checkpoint-1")
    ranks = fork_ranks(folder, [*train_words("run"), "--run.steps", "2"], "fsdp")
    assert lines_naming(one_line(folder, join_ranks(ranks, SECONDS)), "run/checkpoint-1/training_state", "optimizer")


@pytest.mark.timeout(2 * SECONDS)
def test_a_rank_whose_part_of_the_only_checkpoint_is_missing(folder: Path) -> None:
    """Where there is an older one, that is taken (``test_rank_checkpoints.py``)."""
    assert join_ranks(fork_ranks(folder, train_words("run"), "fsdp"), SECONDS) == [0, 0]
    (folder / "log.txt").unlink()
    (folder / "run/checkpoint-1/training_state/random-1.json").unlink()
    ranks = fork_ranks(folder, [*train_words("run"), "--run.steps", "2"], "fsdp")
    line = one_line(folder, join_ranks(ranks, SECONDS))
    assert lines_naming(line, "run.output_dir", "checkpoint-1", "training_state/random-1.json", "missing")
