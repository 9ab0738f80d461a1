"""What another number of steps does to a run that is resumed: the schedule spans the whole run."""

from __future__ import annotations

from pathlib import Path

from gpg_vl.config import Recipe
from gpg_vl.run.saved_recipe import RECIPE_FILE, read_recipe
from gpg_vl.update.optimizer import learning_rate


def describe_extension(recipe: Recipe, checkpoint: Path, step: int) -> str | None:
    """The learning rates of the next step before and now; None where ``run.steps`` is what it was.

    Raises:
        ValueError: the checkpoint's recipe has no number there
    """
    then = (read_recipe(checkpoint / RECIPE_FILE).get("run") or {}).get("steps")
    if not isinstance(then, int):
        raise ValueError(f"{checkpoint / RECIPE_FILE}: run.steps is {str(then)[:40]!r}; restore the file")
    now = recipe.run.steps
    if then == now:
        return None
    before, after = (learning_rate(recipe.update, step, steps) for steps in (then, now))
    return (
        f"note: run.steps was {then} and is {now}: the {recipe.update.schedule} schedule now spans {now} steps, so the "
        f"learning rate goes on at {after:.3g} instead of {before:.3g}"
    )
