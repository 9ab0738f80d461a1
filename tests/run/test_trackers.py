"""Trackers by accelerate's interface: what reaches them, what a failing one costs, and that no run notices them."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from accelerate import PartialState
from PIL import Image

from gpg_vl.config import TRACKERS
from gpg_vl.run.random_state import read_random_state
from gpg_vl.run.run_log import RunLog, read_metrics
from gpg_vl.run.trackers import NAMES_FILE, Trackers, flatten
from gpg_vl.run.unwritable import Lacks
from tests.support.messages import lines_naming
from tests.support.onlookers import Recorder, install_recorder

METRICS = {"reward": 0.5, "update": None, "parts": {"correct": 0.25}, "eval": {"counting": {"metric": "accuracy"}}}
RECIPE = {"run": {"steps": 9, "trackers": ["wandb"]}, "task": None}


def open_trackers(folder: Path, *names: str, first_step: int = 0) -> Trackers:
    return Trackers(names, folder, first_step, RECIPE, Lacks())


def red() -> Image.Image:
    return Image.new("RGB", (40, 30), "red")


def read_board(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events


def test_tensorboard_gets_numbers_and_pictures(tmp_path: Path) -> None:
    trackers = open_trackers(tmp_path, "tensorboard")
    for step in (1, 2):
        trackers.log(step, {**METRICS, "reward": step / 2})
    trackers.show(2, {"groups/1": red()})
    trackers.close()
    board = read_board(tmp_path)
    assert board.Tags()["scalars"] == ["reward", "parts/correct"], "words and nulls are no numbers"
    assert [(each.step, each.value) for each in board.Scalars("reward")] == [(1, 0.5), (2, 1.0)]
    [picture] = board.Images("groups/1")
    assert (picture.step, picture.width, picture.height) == (2, 40, 30)
    assert not (tmp_path / NAMES_FILE).exists(), "its folder is the run's own"


def test_steps_that_are_taken_again_replace_those_of_before(tmp_path: Path) -> None:
    for first_step, value in ((0, 1.0), (1, 7.0)):
        trackers = open_trackers(tmp_path, "tensorboard", first_step=first_step)
        for step in range(first_step + 1, 4):
            trackers.log(step, {"reward": value})
        trackers.close()
    assert [(each.step, each.value) for each in read_board(tmp_path).Scalars("reward")] == [
        (1, 1.0),
        (2, 7.0),
        (3, 7.0),
    ]


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    return install_recorder(monkeypatch)


def test_a_resumed_run_goes_on_under_its_name(tmp_path: Path, recorder: type[Recorder]) -> None:
    (tmp_path / "mine").mkdir()
    for first_step in (0, 3, 0):
        open_trackers(tmp_path / "mine", "wandb", first_step=first_step)
    opened = [values[-1] for name, *values in recorder.calls if name == "opening"]
    new, resumed, another = [(keys["id"], keys["name"], keys["resume"]) for keys in opened]
    assert new == resumed != another, "a run that begins anew in the same folder is another"
    assert new[0].startswith("mine-") and new[0] == new[1] and new[2] == "allow"
    configs = [values for name, *values in recorder.calls if name == "config"]
    assert configs == [[{"run/steps": 9, "run/trackers": '["wandb"]', "task": None}]] * 2, "with a new run alone"


@pytest.mark.parametrize("damage", ["", "[]", '{"run": 3}', "\xff"])
def test_damaged_names_make_a_new_run(tmp_path: Path, recorder: type[Recorder], damage: str) -> None:
    (tmp_path / NAMES_FILE).write_text(damage, encoding="latin-1")
    open_trackers(tmp_path, "wandb", first_step=3)
    assert json.loads((tmp_path / NAMES_FILE).read_text())["run"].startswith(f"{tmp_path.name}-")


@pytest.mark.parametrize("failing", ["opening", "start", "config", "log", "log_images", "finish"])
@pytest.mark.parametrize("error", [RuntimeError, SystemExit])
def test_a_tracker_that_fails_is_noted_once(
    tmp_path: Path, recorder: type[Recorder], failing: str, error: type[BaseException],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    recorder.failing, recorder.error = failing, error
    log = RunLog(tmp_path, ["tensorboard", "wandb"], 0, 10, recipe=RECIPE)
    for step in (1, 2):
        log.write(step, {"loss": 1.0})
        log.write_pictures(step, [])
    log.close()
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]
    assert len(lines_naming(capsys.readouterr().err, "wandb", "tracker")) == 1
    assert len(read_board(tmp_path).Scalars("loss")) == 2, "the other one goes on"


def test_trackers_leave_the_random_numbers_of_a_run_alone(tmp_path: Path, recorder: type[Recorder]) -> None:
    before = read_random_state()
    trackers = open_trackers(tmp_path, "wandb")
    trackers.log(1, METRICS)
    trackers.show(1, {"groups/1": red()})
    trackers.close()
    assert len(recorder.calls) == 6 and read_random_state() == before


def test_a_tracker_does_not_take_a_runs_signals(
    tmp_path: Path, recorder: type[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(Recorder, "start", lambda _: signal.signal(signal.SIGINT, signal.SIG_IGN))
    assert open_trackers(tmp_path, "wandb").is_open
    assert signal.getsignal(signal.SIGINT) == before


def test_values_are_named_by_their_path() -> None:
    assert dict(flatten({"a": {"b": {"c": 1}, "d": None}, "e": "x"})) == {"a/b/c": 1, "a/d": None, "e": "x"}


@pytest.mark.parametrize("name", [name for name in TRACKERS if name != "tensorboard"])
def test_the_real_ones_without_a_network(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where their packages are installed: a run, its picture, and the same run resumed."""
    monkeypatch.chdir(tmp_path)
    for key, value in {
        "WANDB_MODE": "offline", "WANDB_SILENT": "true", "SWANLAB_MODE": "offline",
        "TRACKIO_DIR": str(tmp_path / "trackio"), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
    }.items():  # fmt: skip
        monkeypatch.setenv(key, value)
    pytest.importorskip(name, reason=f"{name} is optional: pip install {name}")
    PartialState()  # of which a run has one
    for first_step in (0, 2):
        trackers = open_trackers(tmp_path, name, first_step=first_step)
        assert trackers.is_open
        for step in range(first_step + 1, first_step + 3):
            trackers.log(step, METRICS)
            trackers.show(step, {"groups/1": red()})
        trackers.close()
    assert "cannot be written" not in capsys.readouterr().err
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) > 1
