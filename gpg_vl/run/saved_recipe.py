"""The recipe of a run as a file: written with every checkpoint, read to resume or to evaluate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from gpg_vl.config import Recipe
from gpg_vl.files import replace_file
from gpg_vl.models.paths import resolve_model_path
from gpg_vl.recipes import load_recipe
from gpg_vl.run.saved_paths import with_absolute_paths

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
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML; restore it, or choose another run.output_dir") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} has no keys; restore it, or choose another run.output_dir")
    return recipe


def recipe_of_model(model: str, recipe: str | None = None, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe to use a model with: ``recipe``, else the one saved with the model, else the defaults.

    Args:
        model: a model folder, a run folder (its newest checkpoint is used), or a name on the hub
        overrides: ``--section.key VALUE`` words on top
    """
    path = resolve_model_path(model)
    saved = Path(path) / RECIPE_FILE
    if recipe is None and saved.is_file():
        recipe = str(saved)
    return load_recipe(recipe, [*overrides, "--model.path", path])
