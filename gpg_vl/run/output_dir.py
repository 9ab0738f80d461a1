"""The directory that a run writes to: one run at a time, writable, with enough space, and the checkpoint to resume."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from gpg_vl.config import LoraConfig, ObjectiveConfig, Recipe
from gpg_vl.errors import first_line
from gpg_vl.models.folder.paths import find_checkpoints, newest_undamaged, set_aside
from gpg_vl.objectives import read_values
from gpg_vl.preflight.outputs import refuse_inputs
from gpg_vl.recipes import KNOWN_KEYS, changed_keys
from gpg_vl.run.claim import LOCK_FILE, claim_folder
from gpg_vl.run.kept_checkpoints import count_checkpoints, removable_checkpoints
from gpg_vl.run.leftovers import remove_leftovers
from gpg_vl.run.run_log import METRICS_FILE, ROLLOUTS_FOLDER
from gpg_vl.run.saved_paths import spelled_as
from gpg_vl.run.saved_recipe import RECIPE_FILE, read_recipe
from gpg_vl.screen import say

MAY_CHANGE_ON_RESUME = {
    "model.device",
    "model.gradient_checkpointing",
    "model.kernels",
    "run.steps",
    "run.save_every",
    "run.save_total_limit",
    "run.eval_every",
    "run.trackers",
    "run.hang_timeout_s",
    "run.resume",
    "run.output_dir",
    "rollout.engine",  # where a server is gone; only the noise of the samples is another one
    "rollout.vllm",
    "rollout.ahead",  # servers are then needed
    "rollout.tokens_per_batch",
    "update.max_skips",
    "update.tokens_per_micro_batch",
    "update.patches_per_micro_batch",
    "rewards.timeout_s",
    "rewards.memory_mb",
    "rewards.on_error",
    "data.on_bad_image",
    "data.workers",
}


@contextmanager
def claim_output_dir(recipe: Recipe) -> Iterator[None]:
    """Inside the context, no other run writes to ``run.output_dir``; a killed run also releases it.

    Raises:
        ValueError: another run is using it, it cannot be written, or it holds what the recipe reads
    """
    folder = Path(recipe.run.output_dir)
    if not find_checkpoints(folder):  # a run that is resumed has been there before
        refuse_inputs("run.output_dir", folder, recipe)
        _refuse_other_files(folder)
    with claim_folder(folder):
        yield


def _refuse_other_files(folder: Path) -> None:
    """Refuses a folder where no run has been, but files of the names that a run writes to."""
    found = [name for name in (RECIPE_FILE, METRICS_FILE, ROLLOUTS_FOLDER) if (folder / name).exists()]
    if found and not (folder / LOCK_FILE).exists():
        raise ValueError(f"run.output_dir: {folder} holds a {found[0]} that no run wrote; choose another folder")


def find_resume_point(recipe: Recipe) -> Path | None:
    """The checkpoint to resume from, if there is one: the newest that is intact.

    Newer ones that are damaged are set aside, and leftovers of an interrupted save are removed.

    Raises:
        ValueError: there are checkpoints, but none is intact; or they belong to another recipe
    """
    folder = Path(recipe.run.output_dir)
    remove_leftovers(folder)
    checkpoints = find_checkpoints(folder)
    if not checkpoints:
        return None  # nothing to lose or to resume
    if recipe.run.resume == "never":
        raise ValueError(f"run.output_dir: {folder} holds a run; choose another folder, or --run.resume auto")
    checkpoint, damaged = newest_undamaged(checkpoints)
    if checkpoint is None:
        causes = "; ".join(f"{path.name}: {damage}" for path, damage in damaged.items())
        raise ValueError(
            f"run.output_dir: no checkpoint in {folder} is whole ({causes}); restore one or choose another"
        )
    _refuse_another_recipe(recipe, checkpoint)
    for path, damage in damaged.items():
        say(f"skipping {path.name}: {damage}; {_set_aside(path)}")
    return checkpoint


def _set_aside(path: Path) -> str:
    try:
        return f"it is now {set_aside(path).name}"
    except OSError as error:
        return f"it cannot be renamed ({error.strerror})"


def check_room(recipe: Recipe, num_weights: int, num_trained: int, step: int = 0) -> None:
    """Refuses to start without space for the run's checkpoints: float32 weights, and two moments of the trained ones.

    With LoRA the weights are those of the adapter alone.

    Args:
        step: finished steps

    Raises:
        ValueError: says how much is free and how much is needed
    """
    folder = Path(recipe.run.output_dir)
    num = count_checkpoints(recipe.run, step, len(removable_checkpoints(folder)))
    saved = num_weights if recipe.model.lora is None else num_trained
    size, free = 4 * saved + 8 * num_trained, shutil.disk_usage(folder).free
    if free < num * size:
        raise ValueError(
            f"run.output_dir: {folder} has {free / 1e9:.2f} GB free, but the run's checkpoints take "
            f"{num * size / 1e9:.2f} GB ({num} of {size / 1e9:.2f} GB); free space, or lower run.save_total_limit"
        )


def _refuse_another_recipe(recipe: Recipe, checkpoint: Path) -> None:
    now = recipe.to_plain()
    plain = read_recipe(checkpoint / RECIPE_FILE)
    try:
        saved = spelled_as(_with_defaults(plain), now)
        if saved["objective"]["name"] == recipe.objective.name:
            saved, now = _with_objective_values(saved), _with_objective_values(now)
    except (TypeError, KeyError, AttributeError) as error:
        cause = f"{type(error).__name__}: {first_line(error)}"
        raise ValueError(f"{checkpoint / RECIPE_FILE} is not the recipe of a run ({cause}); restore it") from error
    for key, (old, new) in changed_keys(saved, now).items():
        if key in MAY_CHANGE_ON_RESUME:
            continue
        found, way_out = f"the recipe has {new!r}", "the old value"
        if key not in KNOWN_KEYS:
            found, way_out = "this version has no such key", "the version that it was started with,"
        raise ValueError(
            f"run.output_dir: {checkpoint.parent} holds a run with {key}={old!r}, but {found}; choose another "
            f"run.output_dir, or {way_out} to continue"
        )


def _with_defaults(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Adds the keys that an earlier version did not have; their defaults change nothing."""
    filled = {**Recipe().to_plain(), **saved}
    for section, keys in Recipe().to_plain().items():
        if isinstance(keys, dict):
            filled[section] = {**keys, **filled[section]}
    if isinstance(filled["model"]["lora"], dict):
        filled["model"]["lora"] = {**asdict(LoraConfig()), **filled["model"]["lora"]}
    return filled


def _with_objective_values(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that the objective reads, with its own value for each that is left open, as it may be in one of two."""
    keys = dict(plain["objective"])
    known = {field.name: keys.pop(field.name) for field in fields(ObjectiveConfig) if field.name in keys}
    read = json.loads(json.dumps(read_values(ObjectiveConfig(**known))))  # tuples as the saved recipe has them
    return {**plain, "objective": {**read, **keys}}
