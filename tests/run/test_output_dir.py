"""The lock, the preflight of the disk, and which checkpoint a run goes on from."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from gpg_vl.config import LoraConfig, ModelConfig, PromptConfig, Recipe, RunConfig
from gpg_vl.run.output_dir import check_room, claim_output_dir, find_resume_point
from gpg_vl.run.saved_recipe import RECIPE_FILE, write_recipe
from gpg_vl.run.sealing import seal_folder
from tests.support.messages import lines_naming, naming


def recipe_for(folder: Path, **run: object) -> Recipe:
    return Recipe(run=RunConfig(output_dir=str(folder), **run))  # type: ignore[arg-type]


def write_checkpoint(output_dir: Path, step: int, recipe: Recipe | None = None) -> Path:
    folder = output_dir / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "weights").write_text(f"weights of {step}")
    write_recipe(recipe or recipe_for(output_dir), folder / RECIPE_FILE)
    seal_folder(folder)
    return folder


# --- the lock ---


def test_a_second_run_is_refused_until_the_first_is_over(tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path / "run")
    claims = naming(f"process {os.getpid()}", recipe.run.output_dir)
    with claim_output_dir(recipe), pytest.raises(ValueError, match=claims):
        claim_output_dir(recipe).__enter__()
    with claim_output_dir(recipe):
        pass


def test_a_killed_run_gives_its_directory_up(tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path / "run")
    script = f"""
import time
from gpg_vl.config import PromptConfig, Recipe, RunConfig
from gpg_vl.run.output_dir import claim_output_dir
with claim_output_dir(Recipe(run=RunConfig(output_dir={str(tmp_path / "run")!r}))):
    print("claimed", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "claimed\n"
        with pytest.raises(ValueError, match=naming(f"process {process.pid}", recipe.run.output_dir)):
            claim_output_dir(recipe).__enter__()
        process.send_signal(signal.SIGKILL)
        process.wait()
        with claim_output_dir(recipe):
            pass


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(ValueError, match=naming("run.output_dir", tmp_path / "run", "No locks available")):
        claim_output_dir(recipe_for(tmp_path / "run")).__enter__()


# --- the disk ---


def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=naming("run.output_dir", tmp_path / "file/run", "Not a directory")):
        claim_output_dir(recipe_for(tmp_path / "file/run")).__enter__()


def test_room_for_all_checkpoints_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of 4 bytes, and two moments of 4 bytes for each that is trained; 3 newest, the best, one more."""
    free = 5 * (4 * 1000 + 8 * 200)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free))
    check_room(recipe_for(tmp_path), 1000, 200)
    with pytest.raises(ValueError, match=naming(tmp_path, "0.00 GB", "run.output_dir", "run.save_total_limit")):
        check_room(recipe_for(tmp_path), 1000, 201)
    check_room(recipe_for(tmp_path), 5000, 1000, step=499)  # a single one is left to write
    check_room(recipe_for(tmp_path), 10**9, 10**9, step=500)
    write_checkpoint(tmp_path, 100)
    write_checkpoint(tmp_path, 200)
    check_room(recipe_for(tmp_path), 1600, 300, step=200)  # two of the five are there


def test_an_adapter_takes_room_for_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No checkpoint of it holds the base."""
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=5 * 12 * 200))
    recipe = replace(recipe_for(tmp_path), model=ModelConfig(lora=LoraConfig()))
    check_room(recipe, 10**9, 200)
    with pytest.raises(ValueError, match=naming("run.output_dir")):
        check_room(recipe, 10**9, 201)


# --- where to go on ---


def test_the_newest_whole_checkpoint_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [write_checkpoint(tmp_path, step) for step in (2, 10, 12)]
    (folders[2] / "weights").write_text("weights of 99")
    assert find_resume_point(recipe_for(tmp_path)) == folders[1]
    said = capsys.readouterr().err
    assert lines_naming(said, "checkpoint-12", "weights", "checkpoint-12.damaged") == said.splitlines()
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-2", "checkpoint-10", "checkpoint-12.damaged"}
    assert find_resume_point(recipe_for(tmp_path)) == folders[1]
    assert capsys.readouterr().err == ""


def test_no_whole_checkpoint_is_an_error_that_changes_nothing(tmp_path: Path) -> None:
    for step in (2, 4):
        (write_checkpoint(tmp_path, step) / "weights").unlink()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=naming(tmp_path, "checkpoint-4", "weights")):
        find_resume_point(recipe_for(tmp_path))
    assert sorted(tmp_path.rglob("*")) == before


def test_what_an_interrupted_save_left_is_removed(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 2).rename(tmp_path / "checkpoint-2.partial")
    assert find_resume_point(recipe_for(tmp_path)) is None
    assert list(tmp_path.iterdir()) == []


def test_resume_goes_by_the_checkpoints_own_recipe(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 2, recipe_for(tmp_path, seed=1))
    free = {"steps": 9, "save_every": 1, "save_total_limit": 2, "eval_every": 0, "trackers": []}
    again = recipe_for(tmp_path, seed=1, **free)
    assert find_resume_point(again) is not None
    less_memory = replace(again, model=replace(again.model, gradient_checkpointing=True))
    assert find_resume_point(less_memory) is not None, "where memory ran out"
    with pytest.raises(ValueError, match=naming(tmp_path, "run.seed", 1, 42)):
        find_resume_point(recipe_for(tmp_path))
    with pytest.raises(ValueError, match=naming(tmp_path, "run.resume", "auto")):
        find_resume_point(recipe_for(tmp_path, seed=1, resume="never"))


def write_plain(path: Path, recipe: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(recipe))
    seal_folder(path.parent)


def test_a_key_that_came_or_went_with_a_version(tmp_path: Path) -> None:
    """One that came has its default; one that went is named, with the way out."""
    recipe = recipe_for(tmp_path)
    path = write_checkpoint(tmp_path, 2, recipe) / RECIPE_FILE
    plain = recipe.to_plain()
    del plain["update"]["schedule"], plain["prompt"]
    write_plain(path, plain)
    assert find_resume_point(recipe) == path.parent
    with pytest.raises(ValueError, match=naming(tmp_path, "prompt.style", "auto", "base")):
        find_resume_point(replace(recipe, prompt=PromptConfig(style="base")))
    plain["update"]["clip"] = 0.2
    write_plain(path, plain)
    with pytest.raises(ValueError, match=naming(tmp_path, "update.clip", 0.2, "version")):
        find_resume_point(recipe)


@pytest.mark.parametrize(
    "changes",
    [{"objective": [1]}, {"objective": None}, {"model": 5}, {"data": {"train": 5}}, {"rewards": {"functions": 5}}],
    ids=str,
)
def test_a_saved_recipe_that_is_none_is_named(tmp_path: Path, changes: dict[str, Any]) -> None:
    recipe = recipe_for(tmp_path)
    folder = write_checkpoint(tmp_path, 1)
    (folder / RECIPE_FILE).write_text(yaml.safe_dump({**recipe.to_plain(), **changes}))
    seal_folder(folder)
    with pytest.raises(ValueError, match=naming(folder / RECIPE_FILE)) as caught:
        find_resume_point(recipe)
    assert "\n" not in str(caught.value)
