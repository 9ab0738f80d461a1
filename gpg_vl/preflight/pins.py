"""What a resumed run must find again besides the rows that it trains on.

These are the rows of its validation, the user's own code, a preference head and the initial model.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from gpg_vl.config import HEAD_FILE, Recipe
from gpg_vl.models.folder.paths import resolve_model_path
from gpg_vl.models.weights.lora import find_base
from gpg_vl.objectives import build_objective
from gpg_vl.preflight.digests import digest_model, find_change
from gpg_vl.preflight.rewards import learned_names

_CODE = "code of "
_BASE = "base model"
_HEAD = "preference head"
_VALIDATION = "validation source "


def take_pins(
    recipe: Recipe,
    tasks: Iterable[str],
    checkpoint: Path | None,
    validation: Sequence[str] = (),
    *,
    reads_weights: bool = True,
) -> dict[str, str]:
    """Digests by what they are of: ``code of my_task.py``, ``base model``.

    Args:
        tasks: names of the rows' tasks
        checkpoint: what the run resumes from, if it does; an adapter in it names its model
        validation: digests of the sources of ``data.eval``
        reads_weights: False for a rank that gets them from another one, and pins no model
    """
    specs = [*tasks, *recipe.rewards.functions, recipe.objective.name]
    files = _with_neighbours(Path(file) for spec in specs if (file := spec.rpartition(":")[0]).endswith(".py"))
    pins = {f"{_VALIDATION}{number}": digest for number, digest in enumerate(validation, start=1)}
    pins |= {f"{_CODE}{file.name}": hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(files)}
    if recipe.rewards.preference is not None and (head := Path(recipe.rewards.preference) / HEAD_FILE).is_file():
        pins[_HEAD] = hashlib.sha256(head.read_bytes()).hexdigest()
    base = _find_base(recipe, checkpoint) if reads_weights else None
    return pins if base is None else {**pins, _BASE: digest_model(base)}


def _with_neighbours(files: Iterable[Path]) -> set[Path]:
    """The files, and those beside them that they import, and so on."""
    found: set[Path] = set()
    todo = list(files)
    while todo:
        file = todo.pop()
        if file not in found:
            found.add(file)
            todo += _imported_neighbours(file)
    return found


def _imported_neighbours(file: Path) -> list[Path]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    beside = [file.with_name(f"{name.partition('.')[0]}.py") for name in sorted(names)]
    return [path for path in beside if path.is_file()]


def check_pins(now: Mapping[str, str], then: Mapping[str, str]) -> None:
    """
    Args:
        then: when the run started; empty in a checkpoint of an earlier version

    Raises:
        ValueError: something is not what it was; names it
    """
    if changed := find_changed_pin(now, then):
        raise ValueError(
            f"{changed.key}: the {changed.name} is not that which the run in run.output_dir has trained with; "
            "restore it, or choose another run.output_dir"
        )


class Pin(NamedTuple):
    """What a digest is of."""

    key: str  # of the recipe
    name: str


def find_changed_pin(now: Mapping[str, str], then: Mapping[str, str]) -> Pin | None:
    """The first that is in both, with another digest."""
    for name, digest in then.items():
        if name in now and _has_changed(name, now[name], digest):
            return Pin(next(key for start, key in _KEYS.items() if name.startswith(start)), name)
    return None


_KEYS = {
    _BASE: "model.path",
    _HEAD: "rewards.preference",
    _VALIDATION: "data.eval",
    _CODE: "task, rewards.functions or objective.name",
}


def _has_changed(name: str, now: str, then: str) -> bool:
    return now != then and (not name.startswith(_VALIDATION) or find_change(now, then) is not None)


def _find_base(recipe: Recipe, checkpoint: Path | None) -> Path | None:
    """The local folder of the model that the run goes back to in every process, if it does."""
    objective = build_objective(recipe.objective, recipe.rollout.max_new_tokens, recipe.reuses_rollouts)
    if recipe.model.lora is None and "reference" not in objective.needs and not learned_names(recipe):
        return None
    if checkpoint is not None and recipe.model.lora is not None:
        path = find_base(str(checkpoint))
    else:
        path = resolve_model_path(recipe.model.path, recipe.model.revision)
        path = find_base(path) or path
    return Path(path) if path is not None and Path(path).is_dir() else None
