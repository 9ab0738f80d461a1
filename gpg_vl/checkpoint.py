"""Checkpoints: a complete model folder and, in ``training_state``, what the run needs to go on from there.

Written beside its final name, synced to disk, and renamed last, so a folder named ``checkpoint-STEP`` is whole. The
state is safetensors and JSON; nothing is unpickled.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from gpg_vl.config import Recipe
from gpg_vl.models.folders import checkpoint_folder
from gpg_vl.models.qwen_vl import QwenVLAdapter

RECIPE_FILE = "recipe.yaml"
STATE_FOLDER = "training_state"


@dataclass(frozen=True, slots=True)
class TrainingState:
    """What decides the future of a run besides weights and optimizer; all noise is seeded by step and sample."""

    step: int  # finished optimizer steps
    stream: dict[str, Any]  # of the prompts consumed by them
    validated_step: int  # last step that was validated
    tasks_done: list[str]  # tasks at their run.stop_when score
    all_done_step: int | None  # step at which all of them were
    counters: dict[str, int]


def save_checkpoint(
    recipe: Recipe, adapter: QwenVLAdapter, optimizer: torch.optim.Optimizer | None, state: TrainingState
) -> Path:
    """Writes ``OUTPUT_DIR/checkpoint-STEP`` in one move, and returns it."""
    final = checkpoint_folder(Path(recipe.run.output_dir), state.step)
    partial = final.with_name(f"{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / STATE_FOLDER).mkdir(parents=True)
    adapter.save(partial)
    write_recipe(recipe, partial / RECIPE_FILE)
    names = [name for name, _ in adapter.trainable_parameters()]
    if optimizer is not None:
        save_file(_flatten(optimizer, names), partial / STATE_FOLDER / "optimizer.safetensors")
    (partial / STATE_FOLDER / "state.json").write_text(json.dumps(asdict(state), indent=1))
    _sync(partial)
    partial.rename(final)
    _sync_folder(final.parent)
    return final


def load_state(folder: Path) -> TrainingState:
    """
    Raises:
        ValueError: the folder has no training state, as an exported model has none
    """
    path = folder / STATE_FOLDER / "state.json"
    if not path.is_file():
        raise ValueError(f"{folder} has no {STATE_FOLDER}/state.json: it is a model, not a checkpoint of a run")
    return TrainingState(**json.loads(path.read_text()))


def load_optimizer(folder: Path, adapter: QwenVLAdapter, optimizer: torch.optim.Optimizer) -> None:
    """Restores the optimizer's state, parameter by parameter."""
    stored = load_file(folder / STATE_FOLDER / "optimizer.safetensors")
    state = optimizer.state_dict()
    for index, (name, _) in enumerate(adapter.trainable_parameters()):
        entries = {key.rsplit("/", 1)[1]: value for key, value in stored.items() if key.rsplit("/", 1)[0] == name}
        if entries:
            state["state"][index] = entries
    optimizer.load_state_dict(state)


def write_recipe(recipe: Recipe, path: Path) -> None:
    """The resolved recipe, every key with its value; ``gpg-vl train`` takes the file as it is."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(yaml.safe_dump(recipe.to_plain(), sort_keys=False, allow_unicode=True))
    partial.replace(path)


def read_recipe(path: Path) -> dict[str, Any]:
    """
    Raises:
        ValueError: the file is not one that ``write_recipe`` wrote
    """
    try:
        recipe = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML; restore it, or choose another run.output_dir") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} holds no keys; restore it, or choose another run.output_dir")
    return recipe


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ between two recipes, with both values."""
    changes: dict[str, tuple[Any, Any]] = {}
    for key in [*old, *(key for key in new if key not in old)]:
        a, b, name = old.get(key), new.get(key), f"{prefix}{key}"
        if isinstance(a, dict) and isinstance(b, dict) and not prefix:
            changes |= changed_keys(a, b, f"{name}.")
        elif a != b:
            changes[name] = (a, b)
    return changes


def _flatten(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    """The optimizer's state as ``PARAMETER/ENTRY`` to tensor."""
    state = optimizer.state_dict()["state"]
    return {
        f"{names[index]}/{entry}": torch.as_tensor(value).contiguous()
        for index, entries in state.items()
        for entry, value in entries.items()
    }


def _sync(folder: Path) -> None:
    """Files and folders below ``folder``, and itself, on disk."""
    for path in [*folder.rglob("*")]:
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    for path in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        _sync_folder(path)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
