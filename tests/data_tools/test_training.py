"""From each published format to two optimizer steps: source, converter, `gpg-vl train` on a tiny model."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from converted import read_counts, read_rows
from gpg_vl import cli
from gpg_vl.run_log import read_metrics
from published_files import picture, sat_row, write_image_rows, write_lines, write_sat

NUM = 6

# A random model is never right, and then has nothing to learn: this part differs between its completions.
REWARD = """
def spread(completions, **columns):
    return [sum(map(ord, str(completion))) % 97 / 97 for completion in completions]
"""
DETECTION = "Detect all objects belonging to the category 'cat' in the image."
POSITIONS = "<answer>[{'Position': [100, 200, 300, 400], 'Confidence': 1}]</answer>"
CVBENCH = {
    "task": "Count",
    "type": "2D",
    "source": "COCO",
    "answer": "(B)",
    "choices": ["1", "2"],
    "prompt": "How many? (A) 1 (B) 2",
}


def write_r1v(path: Path, solution: str) -> list[str]:
    rows = [{"image": n, "problem": "What is it?", "solution": f"<answer> {solution} </answer>"} for n in range(NUM)]
    return ["--source", str(write_image_rows(path / "data/train-0.parquet", rows))]


def write_geoqa(path: Path) -> list[str]:
    return write_r1v(path, "145°")


def write_clevr(path: Path) -> list[str]:
    return write_r1v(path, "4")


def write_sat_rows(path: Path) -> list[str]:
    rows = [sat_row(n, image_bytes=[picture(n)] * (1 + n % 2)) for n in range(NUM)]
    write_sat(path / "SAT_train.parquet", rows)
    return ["--source", str(path), "--max-images", "2"]


def write_cvbench(path: Path) -> list[str]:
    write_image_rows(path / "test_2d.parquet", [{"image": n, **CVBENCH} for n in range(NUM)])
    return ["--source", str(path)]


def write_lisa(path: Path) -> list[str]:
    shape = {"label": "target", "points": [[10, 10], [60, 12], [40, 50]]}
    path.mkdir()
    for n in range(NUM):
        (path / f"{n}.jpg").write_bytes(picture(n))
        (path / f"{n}.json").write_text(json.dumps({"text": ["it"], "is_sentence": False, "shapes": [shape]}))
    return ["--source", str(path), "--box", "union"]


def write_virft_cls(path: Path) -> list[str]:
    rows = [{"image": n, "problem": "Which?", "solution": "<answer>rose</answer>"} for n in range(NUM)]
    return ["--set", "flowers", "--source", str(write_image_rows(path / "train.parquet", rows))]


def write_virft_det(path: Path) -> list[str]:
    solutions = [POSITIONS, "<answer>No Objects</answer>"] * (NUM // 2)
    rows = [{"image": n, "problem": DETECTION, "solution": solution} for n, solution in enumerate(solutions)]
    return ["--source", str(write_image_rows(path / "train.parquet", rows))]


def write_refcoco(path: Path) -> list[str]:
    path.mkdir()
    for n in range(NUM):
        (path / f"{n}.jpg").write_bytes(picture(n))
    records = [{"image": f"{n}.jpg", "problem": "the lady", "solution": [1, 2, 50, 60]} for n in range(NUM)]
    (path / "refcoco_train.json").write_text(json.dumps(records))
    return ["--source", str(path / "refcoco_train.json"), "--images", str(path)]


def write_jsonl(path: Path) -> list[str]:
    path.mkdir()
    (path / "a.jpg").write_bytes(picture())
    rows = [{"image": "a.jpg", "problem": f"{n} and 2?", "solution": n + 2} for n in range(NUM)]
    source = write_lines(path / "mine.jsonl", rows)
    return ["--source", str(source), "--task", "counting", "--columns", "question=problem", "answer=solution"]


SOURCES: dict[str, Callable[[Path], list[str]]] = {
    "geoqa": write_geoqa,
    "clevr": write_clevr,
    "sat": write_sat_rows,
    "cvbench": write_cvbench,
    "lisa": write_lisa,
    "virft_cls": write_virft_cls,
    "virft_det": write_virft_det,
    "refcoco": write_refcoco,
    "jsonl": write_jsonl,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SOURCES))
def test_converted_rows_train(tmp_path: Path, model_folders: dict[str, Path], name: str) -> None:
    rows = tmp_path / "rows.parquet"
    converter = importlib.import_module(f"data_tools.{name}")
    assert converter.main([*SOURCES[name](tmp_path / "source"), "--out", str(rows)]) == 0
    assert len(read_rows(rows)) == NUM and read_counts(rows)["dropped"] == {}
    (tmp_path / "spread.py").write_text(REWARD)
    model = model_folders["qwen2_vl"]
    recipe = {
        "model": {"path": str(model), "dtype": "float32", "min_pixels": 784, "max_pixels": 50176},
        "data": {"train": [str(rows)]},
        "rewards": {"functions": [f"{tmp_path}/spread.py:spread"], "timeout_s": 60.0},  # on a busy machine
        "rollout": {"prompts_per_step": 2, "group_size": 3, "max_new_tokens": 6},
        "update": {"learning_rate": 1.0e-3},
        "run": {"steps": 2, "output_dir": str(tmp_path / "run"), "eval_every": 0, "trackers": []},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    assert cli.main(["train", str(tmp_path / "recipe.yaml")]) == 0
    metrics = read_metrics(tmp_path / "run")
    assert [entry["step"] for entry in metrics] == [1, 2]
    before = load_file(model / "model.safetensors")
    after = load_file(tmp_path / "run/checkpoint-2/model.safetensors")
    assert any(not torch.equal(before[key], after[key]) for key in before)
