"""What a resumed run must find again besides its rows: the user's own code, a preference head, the initial model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from gpg_vl.config import HEAD_FILE, Recipe
from gpg_vl.models.lora import find_base
from gpg_vl.models.paths import resolve_model_path
from gpg_vl.objectives import build_objective
from gpg_vl.preflight.digests import digest_model
from gpg_vl.preflight.rewards import learned_names

_CODE = "code of "
_BASE = "base model"
_HEAD = "preference head"
_CODE_KEYS = "task, rewards.functions or objective.name"


def take_pins(recipe: Recipe, tasks: Iterable[str], checkpoint: Path | None) -> dict[str, str]:
    """Digests by what they are of: ``code of my_task.py``, ``base model``.

    Args:
        tasks: names of the rows' tasks
        checkpoint: what the run resumes from, if it does; an adapter in it names its model
    """
    specs = [*tasks, *recipe.rewards.functions, recipe.objective.name]
    files = {Path(file) for spec in specs if (file := spec.rpartition(":")[0]).endswith(".py")}
    pins = {f"{_CODE}{file.name}": hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(files)}
    if recipe.rewards.preference is not None and (head := Path(recipe.rewards.preference) / HEAD_FILE).is_file():
        pins[_HEAD] = hashlib.sha256(head.read_bytes()).hexdigest()
    base = _find_base(recipe, checkpoint)
    return pins if base is None else {**pins, _BASE: digest_model(base)}


def check_pins(now: Mapping[str, str], then: Mapping[str, str]) -> None:
    """
    Args:
        then: when the run started; empty in a checkpoint of an earlier version

    Raises:
        ValueError: something is not what it was; names it
    """
    for name, digest in then.items():
        if name in now and now[name] != digest:
            key = {_BASE: "model.path", _HEAD: "rewards.preference"}.get(name, _CODE_KEYS)
            raise ValueError(
                f"{key}: the {name} is not that which the run in run.output_dir has trained with; "
                "restore it, or choose another run.output_dir"
            )


def _find_base(recipe: Recipe, checkpoint: Path | None) -> Path | None:
    """The local folder of the model that the run goes back to in every process, if it does."""
    objective = build_objective(recipe.objective, recipe.rollout.max_new_tokens, recipe.reuses_rollouts)
    if recipe.model.lora is None and "reference" not in objective.needs and not learned_names(recipe):
        return None
    if checkpoint is not None and recipe.model.lora is not None:
        path = find_base(str(checkpoint))
    else:
        path = resolve_model_path(recipe.model.path)
        path = find_base(path) or path
    return Path(path) if path is not None and Path(path).is_dir() else None
