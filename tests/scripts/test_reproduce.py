"""The reproduction scripts: mistakes are named before anything is made. `make smoke-reproduce` runs each to its end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.messages import lines_naming

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path for path in (ROOT / "scripts/reproduce").glob("*.sh") if path.name != "experiment.sh")


def run_script(script: Path, folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = os.environ | {"PYTHON": sys.executable, "OUT": str(folder / "out"), **environment}
    command = [str(script), *words]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=60, check=False)


def test_there_is_a_script_for_every_experiment() -> None:
    assert [path.stem for path in SCRIPTS] == ["clevr", "fine_grained", "geoqa", "lisa", "sat"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help_and_mistakes(script: Path, tmp_path: Path) -> None:
    shown = run_script(script, tmp_path, "--help")
    assert shown.returncode == 0
    assert f"usage: scripts/reproduce/{script.stem}.sh" in shown.stdout
    wrong = run_script(script, tmp_path, "--variant", "ppo")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.count("\n") == 1
    assert all(name in wrong.stderr for name in ("--variant", "'ppo'", "gpg,", "gpg-official", "grpo", "sft", "base"))
    unknown = run_script(script, tmp_path, "--fast")
    assert unknown.returncode == 2
    first, second = unknown.stderr.splitlines()[:2]
    assert "--fast" in first
    assert second.startswith("usage: ")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_source_stops_the_script(tmp_path: Path) -> None:
    """An empty DATA: the training set would come from the hub, which is out of reach here."""
    failed = run_script(ROOT / "scripts/reproduce/lisa.sh", tmp_path, DATA=str(tmp_path / "none"))
    assert failed.returncode == 2
    assert lines_naming(failed.stderr, "ReasonSeg/train", "*.json")
    assert "scripts/recipes" not in failed.stderr, "it went on to train"


def test_an_unknown_set_is_named(tmp_path: Path) -> None:
    failed = run_script(ROOT / "scripts/reproduce/fine_grained.sh", tmp_path, SETS="birds")
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1
    assert all(name in failed.stderr for name in ("SETS", "'birds'", "flowers", "pets", "aircraft", "cars"))
