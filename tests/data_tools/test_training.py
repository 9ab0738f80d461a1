"""From each published format to two optimizer steps: source, converter, `gpg-vl train RECIPE` on a tiny model."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data_tools.published_files import picture, sat_row, write_image_rows, write_lines, write_sat
from gpg_vl import cli
from gpg_vl.run.run_log import read_metrics
from tests.support.converted import read_counts, read_rows

NUM = 6

# A random model is never right, and then has nothing to learn: this part differs between its completions.
REWARD = """
def spread(completions, **columns):
    return [sum(map(ord, str(completion))) % 97 / 97 for completion in completions]
"""
DETECTION = "Detect all objects belonging to the category 'cat' in the image."
POSITIONS = "<answer>[{'Position': [100, 200, 300, 400], 'Confidence': 1}]</answer>"
FOUR_SHOT = ["flowers", "pets", "aircraft", "cars"]
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
RECIPES = {  # of scripts/recipes, and the family of the model that it names
    "geoqa": ("geoqa", "qwen2_5_vl"),
    "clevr": ("clevr", "qwen2_vl"),
    "sat": ("sat", "qwen2_vl"),
    "cvbench": ("sat", "qwen2_vl"),
    "lisa": ("lisa", "qwen2_vl"),
    "virft_cls": ("flowers", "qwen2_vl"),
    "virft_det": ("detection", "qwen2_vl"),
    "refcoco": ("refcoco", "qwen2_5_vl"),
    "jsonl": ("clevr", "qwen2_vl"),
}
CASES = [*((name, *RECIPES[name]) for name in SOURCES), *(("virft_cls", n, "qwen2_vl") for n in FOUR_SHOT[1:])]


def convert(name: str, folder: Path, words: list[str]) -> Path:
    """The converted rows, the same bytes on a second run; nothing else is left beside them."""
    main = importlib.import_module(f"data_tools.{name}").main
    rows, again = folder / "rows/train.parquet", folder / "again/train.parquet"
    for out in (rows, again):
        assert main([*words, "--out", str(out)]) == 0
    assert sorted(path.name for path in rows.parent.iterdir()) == ["train.counts.json", "train.parquet"]
    assert rows.read_bytes() == again.read_bytes()
    assert rows.with_suffix(".counts.json").read_bytes() == again.with_suffix(".counts.json").read_bytes()
    return rows


@pytest.mark.parametrize(("name", "recipe", "family"), CASES)
def test_converted_rows_train_by_the_matching_recipe(
    tmp_path: Path, model_folders: dict[str, Path], name: str, recipe: str, family: str
) -> None:
    """The recipe as it stands, but for paths and sizes, and a reward that differs within a random model's group."""
    source = SOURCES[name](tmp_path / "source")
    if name == "virft_cls":
        source[source.index("--set") + 1] = recipe
    rows = convert(name, tmp_path, source)
    assert len(read_rows(rows)) == NUM and read_counts(rows)["dropped"] == {}
    (tmp_path / "spread.py").write_text(REWARD)
    model = model_folders[family]
    overrides: dict[str, object] = {
        "model.path": str(model), "model.dtype": "float32", "model.min_pixels": 784, "model.max_pixels": 50176,
        "data.train": [str(rows)], "rewards.functions": [f"{tmp_path}/spread.py:spread"], "rewards.timeout_s": 60.0,
        "rollout.prompts_per_step": 2, "rollout.group_size": 3, "rollout.max_new_tokens": 6,
        "update.learning_rate": 1.0e-3,
        "run.steps": 2, "run.output_dir": str(tmp_path / "run"), "run.trackers": [],
    }  # fmt: skip
    words = [(f"--{key}", value if isinstance(value, str) else json.dumps(value)) for key, value in overrides.items()]
    path = Path(__file__).parents[2] / f"scripts/recipes/{recipe}.yaml"
    assert cli.main(["train", str(path), *(word for pair in words for word in pair)]) == 0
    metrics = read_metrics(tmp_path / "run")
    assert [(entry["step"], entry["trained_groups"] >= 2) for entry in metrics] == [(1, True), (2, True)]
    before = load_file(model / "model.safetensors")
    after = load_file(tmp_path / "run/checkpoint-2/model.safetensors")
    assert any(not torch.equal(before[key], after[key]) for key in before)
