"""``gpg-vl merge``: a LoRA adapter and its model -> one ordinary model folder."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from gpg_vl.config import Recipe
from gpg_vl.models import load_adapter
from gpg_vl.models.lora import find_base
from gpg_vl.models.paths import resolve_model_path
from gpg_vl.models.saving import CARD_FILE, check_model_folder


def merge(recipe: Recipe, out: Path) -> None:
    """Merges the adapter of ``recipe.model.path`` into the weights of its model and writes the result to ``out``.

    Raises:
        ValueError: there is no adapter, or ``out`` exists and is not an empty folder
    """
    folder = resolve_model_path(recipe.model.path)
    if find_base(folder) is None:
        raise ValueError(f"{folder} is not a LoRA adapter; there is nothing to merge")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not an empty folder; name a new folder")
    adapter = load_adapter(replace(recipe.model, path=folder, lora=None, device="cpu"))
    partial = out.with_name(f"{out.name}.partial")
    adapter.save(partial)
    card = Path(folder) / CARD_FILE
    if card.is_file():
        text = card.read_text(encoding="utf-8").replace("library_name: peft", "library_name: transformers", 1)
        (partial / CARD_FILE).write_text(text.replace("# a LoRA adapter of", "# merged LoRA adapter of", 1), "utf-8")
    check_model_folder(partial)
    partial.replace(out)
    print(f"merged {folder}", file=sys.stderr)
