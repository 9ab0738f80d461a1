from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from gpg_vl.config import Recipe, RunConfig, UpdateConfig
from gpg_vl.run.saved_recipe import write_recipe
from gpg_vl.run.schedule import describe_extension
from tests.support.messages import naming


def test_what_more_steps_do_to_the_schedule_is_said(tmp_path: Path) -> None:
    recipe = Recipe(run=RunConfig(steps=100), update=UpdateConfig(learning_rate=1e-3))
    write_recipe(recipe, tmp_path / "recipe.yaml")
    assert describe_extension(recipe, tmp_path, 75) is None
    said = describe_extension(replace(recipe, run=RunConfig(steps=300)), tmp_path, 75)
    assert said is not None
    for word in ("run.steps", "100", "300", "linear", "0.00075", "0.00025"):  # (300 - 75) / 300 and (100 - 75) / 100
        assert word in said


def test_a_shorter_run_ends_at_nothing(tmp_path: Path) -> None:
    recipe = Recipe(run=RunConfig(steps=100), update=UpdateConfig(learning_rate=1e-3))
    write_recipe(recipe, tmp_path / "recipe.yaml")
    said = describe_extension(replace(recipe, run=RunConfig(steps=50)), tmp_path, 75)
    assert said is not None and " 0 instead of 0.00025" in said


@pytest.mark.parametrize("run", [None, {}, {"steps": "abc"}], ids=str)
def test_a_recipe_without_steps_is_named(tmp_path: Path, run: object) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"run": run}))
    with pytest.raises(ValueError, match=naming(tmp_path / "recipe.yaml", "run.steps")):
        describe_extension(Recipe(), tmp_path, 1)
