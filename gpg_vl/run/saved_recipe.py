"""The recipe of a run as a file: written with every checkpoint, read to resume or to evaluate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from gpg_vl.config import Recipe
from gpg_vl.files import replace_file
from gpg_vl.models.folder.paths import resolve_model_path
from gpg_vl.recipes import load_recipe, read_yaml
from gpg_vl.rewards.functions import function_name
from gpg_vl.run.saved_paths import with_absolute_paths
from gpg_vl.screen import say
from gpg_vl.user_code import own_file

RECIPE_FILE = "recipe.yaml"


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Writes the resolved recipe, every key with its value and paths absolute; ``gpg-vl train`` accepts the file."""
    replace_file(path, yaml.safe_dump(with_absolute_paths(recipe.to_plain()), sort_keys=False, allow_unicode=True))


def read_recipe(path: Path) -> dict[str, Any]:
    """
    Raises:
        ValueError: the file is not one that ``write_recipe`` wrote
    """
    try:
        return read_yaml(str(path))
    except ValueError as error:
        raise ValueError(f"{error}; restore it, or choose another run.output_dir") from error


def recipe_of_model(model: str, recipe: str | None = None, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe to use a model with: ``recipe``, else the settings saved with the model, else the defaults.

    Args:
        model: a model folder, a run folder (its newest checkpoint is used), or a name on the hub
        overrides: ``--section.key VALUE`` words on top
    """
    path = resolve_model_path(model)
    saved = Path(path) / RECIPE_FILE
    if recipe is not None or not saved.is_file():
        return load_recipe(recipe, [*overrides, "--model.path", path])
    plain = read_yaml(str(saved))
    given = {word.partition("=")[0].removeprefix("--") for word in overrides}
    if left_out := [key for key in _what_names_code_or_places(plain) if key not in given]:
        say(f"note: {', '.join(left_out)} of {saved} is used only where you name it: --recipe {saved}")
    return load_recipe(None, [*overrides, "--model.path", path], saved=_settings(plain))


_SETTINGS = ("model", "prompt", "rollout", "evaluation")
"""Sections that a model brings along. It may be anybody's: what runs code or opens places is the user's to name."""


def _settings(plain: Mapping[str, Any]) -> dict[str, Any]:
    kept = {section: plain[section] for section in _SETTINGS if section in plain}
    rewards = _section(plain, "rewards")
    functions = {function_name(spec) for spec in _specs(rewards.get("functions"))}
    weights = {name: each for name, each in _section(rewards, "weights").items() if name not in functions}
    kept["rewards"] = {"weights": weights, **({"scorer": rewards["scorer"]} if "scorer" in rewards else {})}
    sampling = {key: each for key, each in _section(plain, "data").items() if key in ("fps", "max_frames")}
    kept |= {"data": sampling} if sampling else {}
    task = plain.get("task")
    return {**kept, "task": task} if isinstance(task, str) and not own_file(task) else kept


def _what_names_code_or_places(plain: Mapping[str, Any]) -> list[str]:
    """The keys that are set and are not taken along, as an evaluation would use them."""
    rewards, data = _section(plain, "rewards"), _section(plain, "data")
    task = plain.get("task")
    named = {
        "task": isinstance(task, str) and own_file(task),
        "tasks": plain.get("tasks"),
        "rewards.functions": rewards.get("functions"),
        "data.image_root": data.get("image_root"),
        "data.image_hosts": data.get("image_hosts"),
    }
    return [key for key, is_set in named.items() if is_set]


def _section(plain: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = plain.get(name)
    return section if isinstance(section, dict) else {}


def _specs(value: Any) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []
