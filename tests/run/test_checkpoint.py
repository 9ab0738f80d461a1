from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from gpg_vl.config import Recipe, RunConfig
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.models.folder.manifest import find_damage
from gpg_vl.models.folder.paths import find_checkpoints, resolve_model_path, set_aside
from gpg_vl.recipes import changed_keys
from gpg_vl.run.background_save import BackgroundSaves
from gpg_vl.run.checkpoint import (
    OwnState,
    TrainingState,
    changed_versions,
    load_state,
    remove_old_checkpoints,
    save_checkpoint,
)
from gpg_vl.run.output_dir import find_resume_point
from gpg_vl.run.random_state import read_random_state
from gpg_vl.run.sealing import seal_folder
from gpg_vl.update.optimizer import build_optimizer
from tests.support.file_faults import KILLED, Fault, FileOperations, full_disk, in_child, kill
from tests.support.messages import lines_naming, naming


def test_changed_keys_are_dotted() -> None:
    old = {"run": {"steps": 3, "seed": 1}, "task": None, "rewards": {"weights": {"format": 0.5}}}
    new = {"run": {"steps": 4, "seed": 1}, "task": "counting", "rewards": {"weights": {}}}
    assert changed_keys(old, new) == {
        "run.steps": (3, 4),
        "task": (None, "counting"),
        "rewards.weights": ({"format": 0.5}, {}),
    }


def test_newest_checkpoint_of_a_run_is_its_model(tmp_path: Path) -> None:
    for name in ("checkpoint-9", "checkpoint-100", "checkpoint-20", "checkpoint-200.partial", "checkpoint-x"):
        (tmp_path / name).mkdir()
    assert [p.name for p in find_checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-20", "checkpoint-100"]
    assert resolve_model_path(str(tmp_path)) == str(tmp_path / "checkpoint-100")
    with pytest.raises(ValueError, match=naming(tmp_path / "checkpoint-9", "config.json", "checkpoint-N")):
        resolve_model_path(str(tmp_path / "checkpoint-9"))


def test_the_newest_whole_checkpoint_of_a_run_is_its_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever asks for it: it is said which one, and what is wrong with the newer ones."""
    for step in (2, 4, 6):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        seal_folder(folder)
    (tmp_path / "checkpoint-6/config.json").write_text("[]")
    (tmp_path / "checkpoint-4/config.json").unlink()
    assert resolve_model_path(str(tmp_path)) == str(tmp_path / "checkpoint-2")
    said = capsys.readouterr().err
    assert (
        lines_naming(said, tmp_path / "checkpoint-2", "checkpoint-4", "checkpoint-6", "config.json")
        == said.splitlines()
    )
    for step in (4, 6):
        with pytest.raises(ValueError, match=naming("model.path")):
            resolve_model_path(str(tmp_path / f"checkpoint-{step}"))
    (tmp_path / "checkpoint-2/config.json").write_text("[1]")
    with pytest.raises(ValueError, match=naming(tmp_path, "checkpoint-2", "checkpoint-4", "checkpoint-6")):
        resolve_model_path(str(tmp_path))


def test_exported_model_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=naming(tmp_path, "checkpoint")):
        load_state(tmp_path)


# --- a save that is interrupted anywhere ---


class Saves:
    """A run's directory with checkpoint-1 in it, and the save of a checkpoint-2, which then removes the first.

    That is written while the caller waits, or in a thread (``goes_on``).
    """

    def __init__(self, adapter: QwenVLAdapter, output_dir: Path, *, goes_on: bool = False):
        self.output_dir = output_dir
        output_dir.mkdir()
        self.recipe = Recipe(run=RunConfig(output_dir=str(output_dir), save_total_limit=1))
        self._adapter = adapter
        self._optimizer = build_optimizer(adapter, self.recipe.update)
        self._accelerator = Accelerator()
        self._goes_on = False
        self.save(1)
        self._goes_on = goes_on

    def save(self, step: int) -> Path:
        own = OwnState(TrainingState(step, {}, 0, {}, [], None, {}, []), read_random_state(), {})
        if not self._goes_on:
            return save_checkpoint(self.recipe, self._adapter, self._optimizer, self._accelerator, own)
        behind = BackgroundSaves(self._adapter, self._optimizer, self._accelerator)  # its thread is not forked
        behind.follow(find_checkpoints(self.output_dir)[-1])
        behind.begin(self.recipe, own)
        folder = behind.finish()
        behind.close()
        assert folder is not None
        return folder

    def save_in_child(self, strike_at: int | None, fault: Fault = kill, torn: bool = False) -> tuple[int, list[str]]:
        """Exit code of a process that saves step 2, 0 where it got through and 28 after an OSError; what it did."""
        log = self.output_dir.parent / "operations.json"

        def work() -> int:
            with pytest.MonkeyPatch.context() as patch:
                operations = FileOperations(self.output_dir, strike_at, fault, torn)
                operations.watch(patch)
                try:
                    self.save(2)
                except OSError as error:
                    return errno.ENOSPC if "No space left on device" in str(error) else 1
                with log.open("w") as file:
                    json.dump([operations.names, operations.tearable], file)
                return 0

        code = in_child(work)
        return code, json.loads(log.read_text()) if code == 0 else []


@pytest.fixture
def saves(load: Callable[..., QwenVLAdapter], tmp_path: Path) -> Saves:
    return Saves(load(), tmp_path / "run")


@pytest.fixture(params=[False, True], ids=["waits", "goes on"])
def any_saves(load: Callable[..., QwenVLAdapter], tmp_path: Path, request: pytest.FixtureRequest) -> Saves:
    return Saves(load(), tmp_path / "run", goes_on=request.param)


def assert_resumes(saves: Saves, where: str) -> int:
    """The step of the one whole checkpoint that is found; nothing is left over."""
    folder = find_resume_point(saves.recipe)
    assert folder is not None, where
    assert find_damage(folder) is None, where
    step = load_state(folder).step
    assert folder.name == f"checkpoint-{step}", where
    assert {path.name for path in saves.output_dir.iterdir()} <= {"checkpoint-1", "checkpoint-2"}, where
    return step


def restore_start(saves: Saves, start: Path) -> None:
    shutil.rmtree(saves.output_dir)
    shutil.copytree(start, saves.output_dir)


@pytest.mark.faults
@pytest.mark.faults_ci
@pytest.mark.timeout(300)
def test_killed_at_every_file_operation_of_a_save(any_saves: Saves, tmp_path: Path) -> None:
    saves = any_saves
    start = shutil.copytree(saves.output_dir, tmp_path / "start")
    code, [names, tearable] = saves.save_in_child(None)
    assert code == 0
    assert len(names) > 20
    assert len(tearable) == 2, "weights and optimizer"
    steps = []
    for number, torn in [*((n, False) for n in range(len(names))), *((n, True) for n in tearable)]:
        restore_start(saves, start)
        assert saves.save_in_child(number, kill, torn)[0] == KILLED, names[number]
        steps.append(assert_resumes(saves, names[number]))
        if number % 8 == 0:
            assert find_damage(saves.save(2)) is None, names[number]
    committed = next(n for n, name in enumerate(names) if name == f"os.rename {saves.output_dir}/checkpoint-2.partial")
    assert steps[: committed + 1] == [1] * (committed + 1)
    assert set(steps[committed + 1 : len(names)]) == {2}


@pytest.mark.faults
@pytest.mark.faults_ci
@pytest.mark.timeout(300)
def test_a_full_disk_at_every_file_operation_of_a_save(any_saves: Saves, tmp_path: Path) -> None:
    saves = any_saves
    start = shutil.copytree(saves.output_dir, tmp_path / "start")
    _, [names, _] = saves.save_in_child(None)
    for number, name in enumerate(names):
        restore_start(saves, start)
        code, _ = saves.save_in_child(number, full_disk)
        step = assert_resumes(saves, name)
        if code == 0:  # transformers makes the folder that is there, and is content with it whatever mkdir says
            is_tidying = f"{saves.output_dir}/checkpoint-1" in name  # what cannot be removed ends no run
            assert (name.startswith("os.mkdir") or is_tidying) and step == 2, name
        else:
            assert code == errno.ENOSPC, name


def test_a_vanished_output_directory_does_not_come_back_empty(saves: Saves) -> None:
    shutil.rmtree(saves.output_dir)
    with pytest.raises(OSError, match="No such file or directory"):
        saves.save(2)
    assert not saves.output_dir.exists()


# --- which are kept ---


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    scores: dict[int, dict[str, float]] = {
        2: {"a": 0.1},
        4: {"a": 0.9, "b": 0.5},
        6: {"a": 0.6, "b": 0.7},
        8: {},
        10: {},
    }
    for step, validation in scores.items():
        folder = tmp_path / f"checkpoint-{step}/training_state"
        folder.mkdir(parents=True)
        state = TrainingState(step, {}, step, validation, [], None, {}, [])
        (folder / "state.json").write_text(json.dumps(asdict(state)))
    remove_old_checkpoints(tmp_path, None)
    assert len(find_checkpoints(tmp_path)) == 5
    remove_old_checkpoints(tmp_path, 2)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-4", "checkpoint-8", "checkpoint-10"}
    (tmp_path / "checkpoint-4/training_state/state.json").write_text('{"step": 4')
    remove_old_checkpoints(tmp_path, 2)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-8", "checkpoint-10"}, "its score is lost"


def test_other_versions_are_named(saves: Saves) -> None:
    folder = saves.output_dir / "checkpoint-1"
    assert changed_versions(folder) == {}
    path = folder / "training_state/versions.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "torch": "2.0.0"}))
    assert changed_versions(folder) == {"torch": ("2.0.0", torch.__version__.split("+")[0])}


def test_a_checkpoint_has_the_permissions_of_the_umask(saves: Saves) -> None:
    """The weights, too: safetensors makes its files readable by their owner alone."""
    before = os.umask(0o022)
    try:
        folder = saves.save(2)
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}
    assert modes == {0o644}


def test_a_file_of_the_name_of_a_save_ends_nothing(saves: Saves) -> None:
    (saves.output_dir / "checkpoint-2.partial").write_text("mine")
    assert find_damage(saves.save(2)) is None
    assert (saves.output_dir / "checkpoint-2.partial.moved").read_text() == "mine"


def test_an_earlier_damaged_checkpoint_is_not_replaced(saves: Saves) -> None:
    for content in ("one", "two", "three"):
        folder = saves.output_dir / "checkpoint-5"
        folder.mkdir()
        (folder / "weights").write_text(content)
        set_aside(folder)
    found = {path.name: (path / "weights").read_text() for path in saves.output_dir.glob("checkpoint-5*")}
    assert found == {f"checkpoint-5.damaged{end}": text for end, text in (("", "one"), ("-2", "two"), ("-3", "three"))}
