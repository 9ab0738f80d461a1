"""Mistakes in the recipe and the rows are said before torch is imported, and before anything is loaded."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gpg_vl.config import DataConfig, ModelConfig, Recipe
from gpg_vl.preflight.start import check_evaluation, check_run
from tests.support.builders import png
from tests.support.messages import naming

ROW = {"id": "r1", "task": "counting", "images": ["1.png"], "question": "How many?", "answer": "4"}
HEAVY = ("torch", "transformers", "accelerate", "deepspeed", "peft")

RUN = f"""
import sys
from gpg_vl.cli import main
code = main(sys.argv[1:])
print("loaded:", *[name for name in {HEAVY!r} if name in sys.modules])
sys.exit(code)
"""


def run_command(folder: Path, *words: str) -> tuple[int, str, list[str]]:
    """Exit code, what it said on standard error, and the heavy libraries that it had imported by then."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *words], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )
    return done.returncode, done.stderr, done.stdout.splitlines()[-1].split()[1:]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "1.png").write_bytes(png(84, 84))
    rows = [ROW, {**ROW, "id": "r2", "answer": "four-ish"}, {**ROW, "id": "r3", "images": ["gone.png"]}]
    for name, chosen in (("good", rows[:1]), ("bad", rows[:2]), ("gone", rows[::2])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
    (tmp_path / "recipe.yaml").write_text("{model: {path: m}, data: {train: good.jsonl}}")
    (tmp_path / "m").mkdir()
    (tmp_path / "m/config.json").write_text("{}")
    (tmp_path / "own.py").write_text("import nowhere\n")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["train", "recipe.yaml", "--data.train", "bad.jsonl"], ["bad.jsonl", "row 2", "four-ish"]),
        (["train", "recipe.yaml", "--data.train", "gone.jsonl"], ["gone.jsonl", "row 2", "gone.png"]),
        (["train", "recipe.yaml", "--model.path", "./none"], ["model.path", "./none"]),
        (["train", "recipe.yaml", "--run.output_dir", "m/out"], ["run.output_dir", "m/out", "model.path"]),
        (["train", "recipe.yaml", "--rollout.group_size", "1"], ["rollout.group_size", "gpg"]),
        (
            ["train", "recipe.yaml", "--objective.name=rebel", "--objective.pairs=disjoint", "--rollout.group_size=5"],
            ["rollout.group_size", "5", "disjoint"],
        ),
        (["train", "recipe.yaml", "--rollout.engine", "fast"], ["rollout.engine", "fast"]),
        (
            [
                "train",
                "recipe.yaml",
                "--objective.name=supervised",
                "--rollout.engine=vllm",
                "--rollout.ahead=1",
                "--rollout.importance=token",
            ],
            ["rollout.ahead", "supervised", "gold", "0"],
        ),
        (["train", "recipe.yaml", "--run.trackers", "[swanlab]"], ["run.trackers", "pip install swanlab"]),
        (["train", "recipe.yaml", "--objective.name", "ppo"], ["objective.name", "ppo"]),
        (["train", "recipe.yaml", "--task", "countin"], ["task: no task", "countin"]),
        (["train", "recipe.yaml", "--task", "own.py:Own"], ["task: ", "own.py", "nowhere"]),
        (["train", "recipe.yaml", "--rewards.functions", "own.py:f"], ["own.py", "nowhere"]),
        (["train", "recipe.yaml", "--rewards.weights", "{correct: 0, format: 0}"], ["rewards.weights", "correct", 0]),
        (["train", "none.yaml"], ["none.yaml"]),
        (["eval", "m", "--data", "bad.jsonl"], ["bad.jsonl", "row 2", "four-ish"]),
        (["eval", "./none", "--data", "good.jsonl"], ["model.path", "./none"]),
        (["eval", "m", "--data", "none.jsonl"], ["none.jsonl"]),
        (["ask", "m", "--question", "q", "--image", "none.png"], ["--image", "none.png"]),
        (["ask", "m", "--question", "q", "--image", "own.py"], ["own.py", "image"]),
        (["ask", "m", "--question", "q", "--task", "countin"], ["countin"]),
        (["ask", "m", "--question", "q", "--task", "counting", "--answer", "four-ish"], ["four-ish"]),
        (["ask", "m", "--question", "q", "--temperature", "inf"], ["--temperature", "inf"]),
        (
            ["train", "recipe.yaml", "--rollout.engine=vllm", "--rollout.temperature=2.5"],
            ["rollout.temperature", "vllm", "0.01", "2.0", "2.5"],
        ),
        (
            ["train", "recipe.yaml", "--rollout.engine=vllm", "--evaluation.temperature=0.001"],
            ["evaluation.temperature", "vllm", "0.01", "0.001"],
        ),
        (
            ["eval", "m", "--data", "good.jsonl", "--rollout.engine=vllm", "--evaluation.temperature=3"],
            ["evaluation.temperature", "vllm", "3.0"],
        ),
        (
            ["ask", "m", "--question", "q", "--rollout.engine=vllm", "--temperature", "2.1"],
            ["--temperature", "vllm", "2.1"],
        ),
        (
            ["train", "recipe.yaml", "--rollout.vllm.servers=[http://a:1, http://b:1, http://a:1]"],
            ["rollout.vllm.servers", "http://a:1", "twice"],
        ),
        (["merge", "./none", "out"], ["model.path", "./none"]),
        (["doctor", "--checkpoint", "./none"], ["model.path", "./none"]),
    ],
)
def test_mistakes_are_said_before_torch_is_imported(folder: Path, words: list[str], named: list[object]) -> None:
    code, said, loaded = run_command(folder, *words)
    assert code == 2
    assert said.count("\n") == 1 and "Traceback" not in said
    assert re.search(naming(*named), said), said
    if words[0] != "doctor":
        assert loaded == []


def test_several_ranks_check_together_later(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(
        model=ModelConfig(path=str(folder / "m")),
        data=DataConfig(train=[str(folder / "good.jsonl")], eval=[str(folder / "good.jsonl")]),
    )
    sources = check_run(recipe)
    assert sources is not None and [len(source.samples) for each in sources for source in each.sources] == [1, 1]
    assert check_evaluation(recipe) is not None
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert check_run(recipe) is None
    assert check_evaluation(recipe) is None
