"""What a benchmark's command says before it loads anything."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.builders import png
from tests.support.messages import naming

RUN = """
import importlib, sys
from eval.command import run
code = run(importlib.import_module(f"eval.{sys.argv[1]}").BENCHMARK, sys.argv[2:])
print("loaded:", *[name for name in ("torch", "transformers", "accelerate") if name in sys.modules])
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["superclevr", "--model", "m", "--data", "bad"], ["test.jsonl", "row 1", "four-ish"]),
        (["superclevr", "--model", "./none", "--data", "good"], ["model.path", "./none"]),
        (["detection", "--coco"], ["--coco", "--help"]),
        (["cvbench"], ["--model", "--data"]),
    ],
)
def test_mistakes_are_said_in_a_line_before_torch_is_imported(
    tmp_path: Path, words: list[str], named: list[object]
) -> None:
    for name, answer in (("good", "4"), ("bad", "four-ish")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(png(84, 84))
        row = {"id": "r1", "task": "counting", "images": ["1.png"], "question": "How many?", "answer": answer}
        (tmp_path / name / "test.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "m").mkdir()
    (tmp_path / "m/config.json").write_text("{}")
    done = subprocess.run(
        [sys.executable, "-c", RUN, *words, "--out", "out"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and re.search(naming(*named), done.stderr), done.stderr
    assert done.stdout == "loaded:\n"
