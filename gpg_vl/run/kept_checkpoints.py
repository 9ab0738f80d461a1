"""How many checkpoints of a run are on disk together, and which of them a limit may remove."""

from __future__ import annotations

from pathlib import Path

from gpg_vl.config import RunConfig
from gpg_vl.models.folder.paths import find_checkpoints
from gpg_vl.run.saved_recipe import RECIPE_FILE, read_recipe


def removable_checkpoints(output_dir: Path) -> list[Path]:
    """The checkpoints that were saved under a limit, oldest first; whoever saved the others wanted all of them."""
    return [folder for folder in find_checkpoints(output_dir) if not _is_kept(folder)]


def count_checkpoints(run: RunConfig, step: int, num_there: int) -> int:
    """How many checkpoints a run adds to the disk, at most, beyond those that are there.

    Args:
        step: finished steps
        num_there: checkpoints that the limit may remove
    """
    saves = run.steps // run.save_every - step // run.save_every + (run.steps % run.save_every > 0)
    if step >= run.steps or run.save_total_limit is None:
        return saves if step < run.steps else 0
    most = run.save_total_limit + (run.eval_every > 0) + 1  # the newest, the best, and one while it is written
    return min(saves, max(1, most - num_there))


def _is_kept(folder: Path) -> bool:
    try:
        run = read_recipe(folder / RECIPE_FILE).get("run")
    except (OSError, ValueError):
        return False
    return isinstance(run, dict) and "save_total_limit" in run and run["save_total_limit"] is None
