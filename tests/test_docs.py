"""docs/add-a-task.md, followed literally: its files written, its commands run, in a folder with nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_add_a_task_as_written(tmp_path: Path) -> None:
    bin_folder = tmp_path / ".venv/bin"
    bin_folder.mkdir(parents=True)
    (bin_folder / "activate").write_text("")
    (bin_folder / "gpg-vl").write_text(f'#!/bin/sh\nexec {sys.executable} -m gpg_vl "$@"\n')
    (bin_folder / "gpg-vl").chmod(0o755)
    path = f"{bin_folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    output = ""
    for kind, text in BLOCK.findall((ROOT / "docs/add-a-task.md").read_text()):
        name = re.match(r"# (\S+)\n", text)
        if kind == "sh":
            ran = subprocess.run(
                ["sh", "-ec", text.replace("source ", ". ./")],
                cwd=tmp_path, env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}, text=True, check=False,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            assert ran.returncode == 0, f"{text}\n{ran.stdout}"
            output += ran.stdout
        elif kind in ("python", "yaml") and name:
            (tmp_path / name[1]).write_text(text)
    print(output)
    scores = re.findall(r"colour.py:Colour: accuracy (\S+) ", output)
    assert len(scores) == 2 and float(scores[1]) > float(scores[0]), "GPG made it better"
