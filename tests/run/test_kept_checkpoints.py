"""How many checkpoints a run adds to the disk, and which of them may go."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpg_vl.config import Recipe, RunConfig
from gpg_vl.run.checkpoint import remove_old_checkpoints
from gpg_vl.run.kept_checkpoints import count_checkpoints, removable_checkpoints
from gpg_vl.run.saved_recipe import write_recipe


def most_at_once(steps: int, save_every: int, limit: int | None, step: int, num_there: int) -> int:
    """By going through the run: a save adds one, then the oldest beyond the limit go."""
    num = most = num_there
    for finished in range(step + 1, steps + 1):
        if finished % save_every == 0 or finished == steps:
            num += 1
            most = max(most, num)
            num = num if limit is None else min(num, limit)
    return most - num_there


@pytest.mark.parametrize("limit", [None, 1, 2, 3])
@pytest.mark.parametrize(("steps", "save_every"), [(10, 3), (10, 5), (10, 20), (9, 3), (1, 1)])
@pytest.mark.parametrize("step", [0, 1, 3, 5, 9, 10])
def test_as_many_as_a_run_has_at_once(steps: int, save_every: int, limit: int | None, step: int) -> None:
    run = RunConfig(steps=steps, save_every=save_every, save_total_limit=limit, eval_every=0)
    for num_there in range(0 if limit is None else limit + 1):
        expected = most_at_once(steps, save_every, limit, step, num_there)
        assert count_checkpoints(run, step, num_there) == expected, num_there


def test_the_best_one_is_kept_too() -> None:
    run = RunConfig(steps=1000, save_every=100, save_total_limit=2, eval_every=100)
    assert count_checkpoints(run, 0, 0) == 4  # two newest, the best, and one while it is written
    assert count_checkpoints(RunConfig(steps=1000, save_every=100, save_total_limit=2, eval_every=0), 0, 0) == 3


def write_checkpoint(folder: Path, step: int, limit: int | None) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    write_recipe(Recipe(run=RunConfig(save_total_limit=limit)), path / "recipe.yaml")
    return path


def test_what_was_saved_without_a_limit_stays(tmp_path: Path) -> None:
    """An earlier version had none by default: a run that goes on with the new default loses nothing."""
    old = [write_checkpoint(tmp_path, step, None) for step in (1, 2, 3, 4)]
    new = [write_checkpoint(tmp_path, step, 3) for step in (5, 6, 7)]
    assert removable_checkpoints(tmp_path) == new
    remove_old_checkpoints(tmp_path, 1)
    assert sorted(tmp_path.iterdir()) == sorted([*old, new[-1]])


@pytest.mark.parametrize("text", [None, "", "[1]", "{run: 3}", "{run: {}}", "{run: {save_total_limit: 2}}", "\x00{"])
def test_a_recipe_that_says_nothing_keeps_nothing(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "checkpoint-1"
    path.mkdir()
    if text is not None:
        (path / "recipe.yaml").write_text(text)
    assert removable_checkpoints(tmp_path) == [path]
