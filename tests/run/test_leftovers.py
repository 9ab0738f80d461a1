"""Tidying up never ends a run, and touches nothing that the kit did not make."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.run.checkpoint import remove_old_checkpoints
from gpg_vl.run.leftovers import make_room_for, remove_leftovers
from tests.support.messages import lines_naming


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """As NFS does it while another process reads a file of checkpoint-2."""
    remove = shutil.rmtree

    def rmtree(path: Any, *words: Any, **names: Any) -> None:
        if "checkpoint-2" in str(path):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(path))
        remove(path, *words, **names)

    monkeypatch.setattr(shutil, "rmtree", rmtree)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def make(folder: Path, *steps: int) -> None:
    for step in steps:
        (folder / f"checkpoint-{step}").mkdir()
        (folder / f"checkpoint-{step}/weights").touch()


@pytest.mark.usefixtures("stuck")
def test_a_checkpoint_that_cannot_be_removed_is_said_and_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, 2, 4, 6)
    remove_old_checkpoints(tmp_path, 1)
    assert names(tmp_path) == {"checkpoint-2.partial", "checkpoint-6"}
    assert lines_naming(capsys.readouterr().err, tmp_path / "checkpoint-2.partial", "Directory not empty")
    make(tmp_path, 8)
    remove_old_checkpoints(tmp_path, 1)
    assert names(tmp_path) == {"checkpoint-2.partial", "checkpoint-8"}
    monkeypatch.undo()
    remove_old_checkpoints(tmp_path, 1)
    assert names(tmp_path) == {"checkpoint-8"}


def test_a_checkpoint_that_cannot_be_renamed_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> Path:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    make(tmp_path, 2, 4)
    monkeypatch.setattr(Path, "rename", refuse)
    remove_old_checkpoints(tmp_path, 1)
    assert names(tmp_path) == {"checkpoint-2", "checkpoint-4"}
    assert lines_naming(capsys.readouterr().err, tmp_path / "checkpoint-2", "not permitted")


def test_names_that_the_kit_did_not_write_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/precious").touch()
    (tmp_path / "checkpoint-9.partial").write_text("mine")
    (tmp_path / "checkpoint-8.partial").symlink_to(tmp_path / "elsewhere")
    for name in ("checkpoint-x.partial", "checkpoint-7.partial.old", "my-checkpoint-7.partial", "checkpoint-6.partial"):
        (tmp_path / name).mkdir()
    before = names(tmp_path)
    remove_leftovers(tmp_path)
    assert names(tmp_path) == before - {"checkpoint-6.partial"}
    assert (tmp_path / "elsewhere/precious").exists()


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_what_has_the_name_of_a_save_makes_room_for_it(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    partial = tmp_path / "checkpoint-9.partial"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/precious").touch()
    if kind == "file":
        partial.write_text("mine")
    elif kind == "link":
        partial.symlink_to(tmp_path / "elsewhere")
    else:
        partial.mkdir()
    make_room_for(partial)
    partial.mkdir()
    assert (tmp_path / "elsewhere/precious").exists()
    moved = tmp_path / "checkpoint-9.partial.moved"
    assert moved.exists() == (kind != "folder")
    assert bool(lines_naming(capsys.readouterr().err, partial, moved.name)) == (kind != "folder")
