"""`gpg-vl recipes`, in a checkout; tests/test_wheel.py runs it where the kit is installed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from gpg_vl.cli import main
from gpg_vl.commands.recipes import list_recipes
from gpg_vl.recipes import load_recipe
from tests.support.messages import lines_naming

SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_every_recipe_is_listed_with_what_it_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines]
    folder = SCRIPTS / "recipes"
    there = {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")}
    assert set(names) == there | {"launcher"} and len(names) == len(set(names))
    assert all(len(line.split()) > 3 and line.endswith(".") for line in lines)


def test_each_is_written_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in sorted({*list_recipes()} - {"launcher"}):
        assert main(["recipes", name, "--out", str(tmp_path)]) == 0
        written = tmp_path / f"{name}.yaml"
        assert capsys.readouterr().out == f"wrote {written}\n"
        assert written.read_bytes() == (SCRIPTS / f"recipes/{name}.yaml").read_bytes()
    load_recipe([str(tmp_path / "geoqa.yaml"), str(tmp_path / "variants/grpo.yaml")])


def test_the_launcher_comes_with_what_it_needs(tmp_path: Path) -> None:
    """And uses the gpg_vl that its interpreter has, as there is none beside it."""
    assert main(["recipes", "launcher", "--out", str(tmp_path)]) == 0
    interpreter = tmp_path / "python"
    interpreter.write_text(
        '#!/bin/sh\n[ "$1" != -c ] || { echo 2; exit; }\necho "$PYTHONPATH" $ACCELERATE_DEEPSPEED_CONFIG_FILE\n'
    )
    interpreter.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "PYTHON": str(interpreter), "DEEPSPEED": "zero3", "PYTHONPATH": "mine"}
    words = [str(tmp_path / "scripts/train.sh"), "recipe.yaml"]
    ran = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout == f"mine {tmp_path}/scripts/deepspeed/zero3.json\n"


def test_what_is_there_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "scripts/deepspeed").mkdir(parents=True)
    (tmp_path / "scripts/deepspeed/zero3.json").write_text("mine")
    (tmp_path / "geoqa.yaml").write_text("mine")
    for name, taken in (("geoqa", "geoqa.yaml"), ("launcher", "zero3.json")):
        assert main(["recipes", name, "--out", str(tmp_path)]) == 2
        assert lines_naming(capsys.readouterr().err, taken, "--out")
    assert not (tmp_path / "scripts/train.sh").exists()


def test_a_wrong_name_is_answered_with_the_right_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "geoQA"]) == 2
    assert lines_naming(capsys.readouterr().err, "'geoQA'", "geoqa", "variants/grpo")
