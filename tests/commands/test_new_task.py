from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from gpg_vl import cli
from gpg_vl.commands.new_task import write_new_task
from gpg_vl.tasks import load_task
from tests.support.messages import lines_naming, naming


def test_files_work_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["new-task", "fine_print"]) == 0
    printed = capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"fine_print.py", "test_fine_print.py"}
    assert "--task fine_print.py:FinePrint" in printed
    command = next(line.partition(":")[2].split() for line in printed.splitlines() if line.startswith("test it:"))
    assert command[0] == "python"
    ran = subprocess.run([sys.executable, *command[1:]], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout
    assert "7 passed" in ran.stdout
    assert load_task("fine_print.py:FinePrint").name == "fine_print"


def test_a_task_is_short(tmp_path: Path) -> None:
    path, class_name = write_new_task("colour", tmp_path)
    assert class_name == "Colour"
    assert len(path.read_text().splitlines()) <= 25
    ast.parse(path.read_text())


def test_nothing_is_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_colour.py").write_text("mine")
    assert cli.main(["new-task", "colour"]) == 2
    error = capfd.readouterr().err
    assert lines_naming(error, "gpg-vl new-task", "test_colour.py") == error.splitlines()
    assert [path.name for path in tmp_path.iterdir()] == ["test_colour.py"]


@pytest.mark.parametrize("name", ["json", "sys", "torch", "pytest"])
def test_names_of_modules(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=naming(name, "module")):
        write_new_task(name, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", "Colour", "my-task", "../x", "7up", "class", "a.b"])
def test_names_that_python_cannot_import(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=naming(repr(name))):
        write_new_task(name, tmp_path)
    assert not list(tmp_path.iterdir())
