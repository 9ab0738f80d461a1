"""``gpg-vl merge``: an adapter and its model -> one model folder that knows nothing of adapters."""

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
    """Writes the adapter of ``recipe.model.path``, added into the weights of its model, to ``out``.

    Raises:
        ValueError: there is no adapter, or ``out`` holds something
    """
    folder = resolve_model_path(recipe.model.path)
    if find_base(folder) is None:
        raise ValueError(f"{folder} is no adapter: its weights are whole already")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there already; name a new folder")
    adapter = load_adapter(replace(recipe.model, path=folder, lora=None))
    partial = out.with_name(f"{out.name}.partial")
    adapter.save(partial)
    card = Path(folder) / CARD_FILE
    if card.is_file():
        text = card.read_text(encoding="utf-8").replace("library_name: peft", "library_name: transformers", 1)
        (partial / CARD_FILE).write_text(text.replace("# a LoRA adapter of", "# merged LoRA adapter of", 1), "utf-8")
    check_model_folder(partial)
    partial.replace(out)
    print(f"merged {folder}", file=sys.stderr)
