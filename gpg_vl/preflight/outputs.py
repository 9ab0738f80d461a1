"""A folder to write to must not be one that is read: what lies there would be replaced, or taken for a part of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gpg_vl.config import Recipe
from gpg_vl.files import lies_in, same_place
from gpg_vl.models.folder.paths import is_model_folder


def refuse_inputs(key: str, out: Path, recipe: Recipe) -> None:
    """
    Args:
        key: what the message calls ``out``

    Raises:
        ValueError: ``out`` is a folder of the recipe's model or data, or inside a model
    """
    for name, path in _inputs(recipe):
        folder = path if path.is_dir() else path.parent
        is_there = path.exists() and same_place(out, folder)
        if is_there or (path.is_dir() and _is_whole(path) and lies_in(out, path)):
            raise ValueError(f"{key}: {out} is where {name} is read ({path}); choose another folder")


def _is_whole(folder: Path) -> bool:
    """Whether everything below belongs to it: a model, or a folder saved by ``datasets``; a run holds other things."""
    return is_model_folder(folder) or (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def _inputs(recipe: Recipe) -> Iterator[tuple[str, Path]]:
    data = recipe.data
    if recipe.model.path:
        yield "model.path", Path(recipe.model.path)
    for key, entries in (("data.train", data.train), ("data.eval", data.eval)):
        for entry in entries:
            path = entry if isinstance(entry, str) else entry.get("path")
            if isinstance(path, str) and path:
                yield key, Path(path)
    if data.image_root is not None:
        yield "data.image_root", Path(data.image_root)
