"""Paths of a saved recipe: absolute, and the same as the relative ones they came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gpg_vl.config import DataConfig, ModelConfig, Recipe, RewardsConfig, RunConfig
from gpg_vl.recipes import as_word, load_recipe
from gpg_vl.run.saved_paths import spelled_as, with_absolute_paths
from gpg_vl.run.saved_recipe import write_recipe


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    here = tmp_path / "ordner 😀"
    for name in ("models/m", "pictures", "shards", "data"):
        (here / name).mkdir(parents=True)
    (here / "data/rows.jsonl").touch()
    monkeypatch.chdir(here)
    return here


def recipe(**data: Any) -> Recipe:
    train: list[Any] = ["data/rows.jsonl", {"path": "data/rows.jsonl", "weight": 2}, "someone/rows", "shards/*.tar"]
    return Recipe(
        model=ModelConfig(path="models/m"),
        data=DataConfig(**{"train": train, "eval": ["./data/rows.jsonl"], "image_root": "pictures", **data}),
        rewards=RewardsConfig(functions=["own.py:reward"], preference="pictures"),
        run=RunConfig(output_dir="runs/new"),
    )


def test_a_saved_recipe_means_the_same_elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_recipe(recipe(), folder / "recipe.yaml")
    monkeypatch.chdir("/")
    saved = load_recipe(str(folder / "recipe.yaml"))
    rows = str(folder / "data/rows.jsonl")
    assert saved.data.train == [rows, {"path": rows, "weight": 2}, "someone/rows", str(folder / "shards/*.tar")]
    assert (saved.data.eval, saved.data.image_root) == ([rows], str(folder / "pictures"))
    assert (saved.model.path, saved.run.output_dir) == (str(folder / "models/m"), str(folder / "runs/new"))
    assert saved.rewards.functions == [f"{folder}/own.py:reward"]
    assert saved.rewards.preference == str(folder / "pictures")


def test_names_on_the_hub_stay_as_they_are(folder: Path) -> None:
    plain = Recipe(model=ModelConfig(path="someone/model"), data=DataConfig(train=["someone/rows"])).to_plain()
    absolute = with_absolute_paths(plain)
    assert (absolute["model"]["path"], absolute["data"]["train"]) == ("someone/model", ["someone/rows"])


@pytest.mark.parametrize("moved", [False, True])
def test_a_path_is_the_same_as_its_absolute_one(folder: Path, monkeypatch: pytest.MonkeyPatch, moved: bool) -> None:
    saved, now = with_absolute_paths(recipe().to_plain()), recipe().to_plain()
    if moved:
        monkeypatch.chdir("/")
    assert spelled_as(saved, now) == now
    assert spelled_as(now, now) == now
    assert moved or spelled_as(now, saved) == saved


@pytest.mark.parametrize("other", ["data/other.jsonl", "/elsewhere/rows.jsonl", "rows.jsonl/more", "other/rows.jsonl"])
def test_another_path_is_another(folder: Path, other: str) -> None:
    saved = with_absolute_paths(recipe(train=["data/rows.jsonl"]).to_plain())
    now = recipe(train=[other]).to_plain()
    assert spelled_as(saved, now)["data"]["train"] == [str(folder / "data/rows.jsonl")]
    assert spelled_as(saved, recipe(train=[]).to_plain())["data"]["train"] == [str(folder / "data/rows.jsonl")]


@pytest.mark.parametrize(
    "name", ["ordner 😀/rows.jsonl", "𠮷.jsonl", "a\u2028b.jsonl", 'it\'s "it".jsonl', "1", "ä: #.csv"]
)
def test_any_name_is_a_word_of_the_command_line(name: str) -> None:
    assert yaml.safe_load(as_word([name, {"path": name}])) == [name, {"path": name}]
    assert load_recipe(None, ["--data.eval", as_word([name])]).data.eval == [name]
