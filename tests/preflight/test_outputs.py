"""A folder to write to that is one of those to read."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpg_vl.config import DataConfig, ModelConfig, Recipe, RunConfig
from gpg_vl.preflight.outputs import refuse_inputs
from gpg_vl.run.output_dir import claim_output_dir
from tests.support.messages import naming


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    for folder, file in (
        ("model", "config.json"), ("rows", "rows.jsonl"), ("saved", "state.json"), ("pictures", "x.png"),
        ("run", "recipe.yaml"),
    ):  # fmt: skip
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text("mine")
    data = DataConfig(
        train=[str(tmp_path / "rows/rows.jsonl")],
        eval=[{"path": str(tmp_path / "saved")}],
        image_root=str(tmp_path / "pictures"),
    )
    return Recipe(model=ModelConfig(path=str(tmp_path / "model")), data=data)


@pytest.mark.parametrize(
    ("out", "key"),
    [
        ("model", "model.path"),
        ("model/out", "model.path"),
        ("model/../model", "model.path"),
        ("link", "model.path"),
        ("rows", "data.train"),
        ("saved", "data.eval"),
        ("saved/train", "data.eval"),
        ("pictures", "data.image_root"),
    ],
)
def test_a_folder_that_is_read_is_refused(recipe: Recipe, tmp_path: Path, out: str, key: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "model")
    with pytest.raises(ValueError, match=naming("--out", key)):
        refuse_inputs("--out", tmp_path / out, recipe)


@pytest.mark.parametrize("out", ["new", "rows/out", "pictures/out", "run/eval", "model-2", "."])
def test_other_folders_are_taken(recipe: Recipe, tmp_path: Path, out: str) -> None:
    refuse_inputs("--out", tmp_path / out, recipe)


def test_a_name_on_the_hub_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refuse_inputs(
        "--out", tmp_path, Recipe(model=ModelConfig(path="someone/model"), data=DataConfig(train=["me/rows"]))
    )
    refuse_inputs("--out", tmp_path, Recipe())


@pytest.mark.parametrize("name", ["recipe.yaml", "metrics.jsonl", "rollouts"])
def test_files_that_no_run_wrote_are_not_replaced(tmp_path: Path, name: str) -> None:
    """Above all the recipe itself, where ``run.output_dir`` is its folder; a run that was there before goes on."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / name).write_text("mine")
    recipe = Recipe(run=RunConfig(output_dir=str(folder)))
    with pytest.raises(ValueError, match=naming("run.output_dir", folder, name)), claim_output_dir(recipe):
        pass
    assert [path.name for path in folder.iterdir()] == [name], "not even a lock"
    (folder / ".lock").touch()
    with claim_output_dir(recipe):
        pass
