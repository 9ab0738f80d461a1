"""What must not end a run, nor cost it a step; and what must, before it writes into another run's folder."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.collect import Collector
from gpg_vl.models.folder.paths import find_checkpoints
from gpg_vl.run.claim import LostFolder, claim_folder
from gpg_vl.run.run_log import read_metrics
from gpg_vl.train import train
from tests.support.messages import lines_naming
from tests.support.onlookers import Terminal, install_recorder
from tests.support.small_recipes import MakeRecipe
from tests.support.tiny_runs import assert_equal_runs

pytestmark = pytest.mark.usefixtures("noisy_rewards")


def at_call(monkeypatch: pytest.MonkeyPatch, number: int, action: Callable[[], None]) -> None:
    """Does something before the rollout of a step, counted from 1."""
    original, calls = Collector._roll_out, iter(range(1, 1000))

    def roll_out(self: Collector, *words: Any) -> Any:
        if next(calls) == number:
            action()
        return original(self, *words)

    monkeypatch.setattr(Collector, "_roll_out", roll_out)


def steps(folder: Path) -> list[int]:
    return [row["step"] for row in read_metrics(folder)]


class ClosedScreen:
    """A terminal that hung up."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def flush(self) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def isatty(self) -> bool:
        return True


def test_a_screen_that_closes(make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_call(monkeypatch, 2, lambda: monkeypatch.setattr(sys, "stderr", ClosedScreen()))
    assert train(make_recipe(run__save_every=1)) == tmp_path / "run/checkpoint-3"
    assert steps(tmp_path / "run") == [1, 2, 3]


def test_a_display_and_trackers_change_nothing(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the terminal hangs up, and the tracker draws random numbers and fails in the end."""
    quiet = {"run.steps": 2, "run.record": {"every": 1}}
    train(make_recipe(**quiet, run__output_dir=str(tmp_path / "plain")))
    terminal, recorder = Terminal(), install_recorder(monkeypatch)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    recorder.failing = "finish"
    at_call(monkeypatch, 2, lambda: setattr(terminal, "is_gone", True))
    train(make_recipe(**quiet, run__trackers=["wandb", "tensorboard"]))
    assert all(phase in terminal.getvalue() for phase in ("rollout", "scoring", "update"))
    assert "run: step 1 of 2" in terminal.getvalue() and "step 1/2" not in terminal.getvalue()
    shown = [(values[0], list(values[1])) for name, *values in recorder.calls if name == "log_images"]
    assert shown == [(step, [f"groups/{n}" for n in range(1, 5)]) for step in (1, 2)]
    assert_equal_runs(tmp_path / "plain", tmp_path / "run")


def test_a_log_and_a_tracker_that_cannot_be_written(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files of another owner, here folders of their names."""

    def replace() -> None:
        (tmp_path / "run/metrics.jsonl").unlink()
        (tmp_path / "run/metrics.jsonl").mkdir()
        shutil.rmtree(tmp_path / "run/rollouts")
        (tmp_path / "run/rollouts").touch()

    at_call(monkeypatch, 2, replace)
    assert train(make_recipe()) == tmp_path / "run/checkpoint-3"
    said = capsys.readouterr().err
    assert len(lines_naming(said, "metrics.jsonl")) == 1 and len(lines_naming(said, "rollouts")) == 1


def test_an_old_checkpoint_that_stays(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    remove = shutil.rmtree

    def rmtree(path: Any, *words: Any, **names: Any) -> None:
        if "checkpoint-1" in str(path):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        remove(path, *words, **names)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    recipe = make_recipe(run__save_every=1, run__save_total_limit=1)
    assert train(recipe) == tmp_path / "run/checkpoint-3"
    assert [path.name for path in find_checkpoints(tmp_path / "run")] == ["checkpoint-3"]
    assert lines_naming(capsys.readouterr().err, "checkpoint-1.partial", "Directory not empty")
    assert train(make_recipe(run__steps=4)) == tmp_path / "run/checkpoint-4"


def test_files_of_ones_own_in_the_runs_folder(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    train(make_recipe(run__steps=1))
    (tmp_path / "run/rollouts/notes.jsonl").write_text("mine\n")
    (tmp_path / "run/checkpoint-2.partial").write_text("mine")
    (tmp_path / "run/checkpoint-9.partial").symlink_to(tmp_path)
    assert train(make_recipe(run__steps=2)) == tmp_path / "run/checkpoint-2"
    assert (tmp_path / "run/rollouts/notes.jsonl").read_text() == "mine\n"
    assert (tmp_path / "run/checkpoint-2.partial.moved").read_text() == "mine"


@pytest.mark.parametrize("what", ["renamed", "lock removed"])
def test_a_folder_that_became_another_runs(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """It ends in one line, and writes neither a line nor a checkpoint into it."""
    run = tmp_path / "run"

    def take() -> None:
        if what == "renamed":
            run.rename(tmp_path / "moved")
            with claim_folder(tmp_path / "new"):
                pass
            (tmp_path / "new").rename(run)
        else:
            (run / ".lock").unlink()
            (run / ".lock").touch()
        before.update({path: path.read_bytes() for path in run.rglob("*") if path.is_file()})

    before: dict[Path, bytes] = {}
    at_call(monkeypatch, 3, take)
    with pytest.raises(LostFolder, match="lock"):
        train(make_recipe(run__save_every=2))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
