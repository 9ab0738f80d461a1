"""The log of a run on a disk that fills up, beside files of other programs, with a tracker that fails."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from torch.utils.tensorboard import SummaryWriter

from gpg_vl.run.run_log import RunLog, read_metrics
from tests.support.messages import lines_naming


def steps(folder: Path) -> list[int]:
    return [row["step"] for row in read_metrics(folder)]


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    rollouts = tmp_path / "rollouts"
    rollouts.mkdir()
    for name in ("notes.jsonl", "9.jsonl", "000001.jsonl", "000003.jsonl", "000003.jsonl.gz", "0000030.jsonl"):
        (rollouts / name).write_text("mine\n")
    RunLog(tmp_path, [], 2, 10)
    left = {"notes.jsonl", "9.jsonl", "000001.jsonl", "000003.jsonl.gz"}
    assert {path.name for path in rollouts.iterdir()} == left


def test_lines_of_later_steps_and_half_lines_go(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n"mine"\n{"step": 2}\n{"step": 3}\n\xff\n{"st')
    log = RunLog(tmp_path, [], 2, 10)
    log.write(3, {"loss": 1})
    log.flush()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert lines == ['{"step": 1}', '"mine"', '{"step": 2}', '{"step": 3, "loss": 1}']


def test_a_full_disk_costs_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor does it leave half of one: what could not be written comes with the next."""
    log = RunLog(tmp_path, [], 0, 10)
    log.write(1, {})
    log.flush()
    write = os.write

    def half(descriptor: int, data: bytes) -> int:
        if len(data) > 4:
            return write(descriptor, data[:4])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        for step in (2, 3):
            log.write(step, {})
        log.flush()
    assert steps(tmp_path) == [1]
    log.write(4, {})
    log.flush()
    assert steps(tmp_path) == [1, 2, 3, 4]
    said = capsys.readouterr().err
    assert len(lines_naming(said, "metrics.jsonl", "No space left")) == len(said.splitlines()) == 1


def test_rollouts_that_cannot_be_written_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = RunLog(tmp_path, [], 0, 10)
    (tmp_path / "rollouts").rmdir()
    for step in (1, 2):
        log.write_rollouts(step, [])
    log.flush()
    assert len(lines_naming(capsys.readouterr().err, "rollouts")) == 1


def test_a_pipe_that_nobody_reads_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "metrics.jsonl")
    log = RunLog(tmp_path, [], 0, 10)
    for step in (1, 2):
        log.write(step, {"loss": 1.0})
    log.flush()
    assert len(lines_naming(capsys.readouterr().err, "metrics.jsonl")) == 1


@pytest.mark.parametrize("failing", ["add_scalar", "flush", "close", "opening"])
def test_a_tracker_that_fails_is_noted(
    tmp_path: Path, failing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here the library that accelerate's tracker writes with."""

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("tracker\nis down")

    name = "__init__" if failing == "opening" else failing
    monkeypatch.setattr(SummaryWriter, name, fail)
    log = RunLog(tmp_path, ["tensorboard"], 0, 10)
    for step in (1, 2):
        log.write(step, {"loss": 1.0})
    log.close()
    assert steps(tmp_path) == [1, 2]
    assert len(lines_naming(capsys.readouterr().err, "tensorboard", "tracker")) == 1
