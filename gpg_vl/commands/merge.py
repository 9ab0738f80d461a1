"""``gpg-vl merge``: a LoRA adapter and its model -> one ordinary model folder."""

from __future__ import annotations

import secrets
import shutil
from dataclasses import replace
from pathlib import Path

from gpg_vl.config import Recipe
from gpg_vl.files import lies_in, naming
from gpg_vl.models import load_adapter
from gpg_vl.models.folder.paths import resolve_model_path
from gpg_vl.models.folder.saving import CARD_FILE, check_model_folder
from gpg_vl.models.weights.lora import find_base
from gpg_vl.run.saved_recipe import RECIPE_FILE, write_recipe
from gpg_vl.run.sealing import sync
from gpg_vl.screen import say


def merge(recipe: Recipe, out: Path) -> None:
    """Merges the adapter of ``recipe.model.path`` into the weights of its model and writes the result to ``out``.

    The folder is complete or not there. It also holds the settings that the adapter was trained with.

    Raises:
        ValueError: there is no adapter, or ``out`` exists and is not an empty folder, or lies in the adapter's
    """
    folder = resolve_model_path(recipe.model.path)
    base = find_base(folder)
    if base is None:
        raise ValueError(f"{folder} is not a LoRA adapter; there is nothing to merge")
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise ValueError(f"{out} exists and is not an empty folder; name a new folder")
    if lies_in(out, Path(folder)) or lies_in(out, Path(base)):
        raise ValueError(f"{out} is inside of what it is made from; name a folder elsewhere")
    merged = replace(recipe, model=replace(recipe.model, path=folder, lora=None, device="cpu"))
    partial = out.with_name(f".{out.name}.{secrets.token_hex(4)}.partial")
    partial.mkdir(parents=True)
    try:
        with naming(out):
            _write(merged, Path(folder), partial)
            partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    sync([out.parent])
    say(f"merged {folder}")


def _write(recipe: Recipe, folder: Path, partial: Path) -> None:
    adapter = load_adapter(recipe.model)
    adapter.save(partial)
    card = folder / CARD_FILE
    if card.is_file():
        text = card.read_text(encoding="utf-8").replace("library_name: peft", "library_name: transformers", 1)
        (partial / CARD_FILE).write_text(text.replace("# a LoRA adapter of", "# merged LoRA adapter of", 1), "utf-8")
    write_recipe(recipe, partial / RECIPE_FILE)
    check_model_folder(partial, needs_template=adapter.has_chat_template())
    sync(path for path in partial.iterdir() if path.is_file())
