"""What a recipe that was saved with a model decides where somebody uses the model, and what it does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.config import Recipe
from gpg_vl.run.saved_recipe import recipe_of_model

SAVED: dict[str, Any] = {
    "model": {"path": "somewhere", "dtype": "float32", "min_pixels": 784, "max_pixels": 50176},
    "prompt": {"template": "{question} Be brief."},
    "rollout": {"max_new_tokens": 7, "temperature": 0.5},
    "evaluation": {"num_samples": 2, "temperature": 0.9},
    "rewards": {"weights": {"format": 0.1, "noise": 2.0}, "functions": ["own.py:noise"], "scorer": "strict"},
    "data": {"train": ["/data/rows.jsonl"], "image_root": "/", "image_hosts": ["127.0.0.1"]},
    "objective": {"name": "own.py:Objective"},
    "run": {"output_dir": "/elsewhere", "seed": 7},
    "task": "own.py:Task",
    "tasks": ["own.py:Other"],
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder of a model, as far as a recipe is concerned; its code leaves a trace when it runs."""
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (folder / "recipe.yaml").write_text(json.dumps(SAVED))
    return folder


def test_it_gives_settings_and_neither_code_nor_places(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(model)  # where the names of the files would be found
    recipe, plain = recipe_of_model(str(model)), Recipe()
    assert (recipe.model.path, recipe.model.max_pixels) == (str(model), 50176)
    assert recipe.prompt.template == "{question} Be brief."
    assert (recipe.rollout.max_new_tokens, recipe.rollout.temperature) == (7, 0.5)
    assert (recipe.evaluation.num_samples, recipe.evaluation.temperature) == (2, 0.9)
    assert (recipe.rewards.weights, recipe.rewards.functions) == ({"format": 0.1}, [])
    assert (recipe.data, recipe.objective, recipe.run) == (plain.data, plain.objective, plain.run)
    assert (recipe.task, recipe.tasks) == (None, [])
    assert not (tmp_path / "ran").exists()
    [line] = capsys.readouterr().err.splitlines()
    for named in ("task", "tasks", "rewards.functions", "data.image_root", "data.image_hosts", "--recipe"):
        assert named in line


def test_what_the_user_gives_is_not_asked_for(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert recipe_of_model(str(model), None, ["--task", "counting"]).task == "counting"
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("note: tasks, rewards.functions")


def test_the_user_may_name_it(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model)
    recipe = recipe_of_model(str(model), "recipe.yaml", ["--run.seed", "9"])
    assert recipe.task == f"{model}/own.py:Task" and recipe.rewards.functions == ["own.py:noise"]
    assert (recipe.data.image_hosts, recipe.run.seed, recipe.model.path) == (["127.0.0.1"], 9, str(model))


def test_a_task_of_the_kit_is_taken_along(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = {key: SAVED[key] for key in ("model", "prompt")}
    (model / "recipe.yaml").write_text(json.dumps({**kept, "task": "counting"}))
    assert recipe_of_model(str(model)).task == "counting"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "text", ["model: {pat: x}", "model: 3", "rewards: [1]\nmodel: {dtype: [}", "- a", "rollout: {group_size: many}"]
)
def test_one_that_cannot_be_read_is_one_line(model: Path, text: str) -> None:
    (model / "recipe.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"recipe|rollout\.group_size") as caught:
        recipe_of_model(str(model))
    assert "\n" not in str(caught.value)
