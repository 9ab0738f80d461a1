"""Weights of a model folder that the model's class does not load, as those of heads for speculative decoding.

A model that is saved has them as they were, in a file of their own that the index names beside the others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel

from gpg_vl.models.loading import WEIGHTS_INDEX, read_object

CARRIED_FILE = "model-carried.safetensors"
_SINGLE_FILE, _FIRST_OF_SEVERAL = "model.safetensors", "model-00001-of-00001.safetensors"


class CarriedWeights:
    """What a folder has beside the weights of its model; its files stay open, for the folder may be removed."""

    def __init__(self, path: str, model: PreTrainedModel, unexpected: Collection[str]):
        """
        Args:
            path: of the folder, or its name on the hub
            unexpected: names that ``from_pretrained`` found no place for
        """
        patterns = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_unexpected or ()]
        own = set(model.state_dict())
        self._files = {
            name: file
            for file in _open_files(path)
            for name in file.keys()  # noqa: SIM118  no dict
            if name not in own and (name in unexpected or any(each.search(name) for each in patterns))
        }

    def write(self, folder: Path) -> None:
        """Adds them to a folder into which the model was saved."""
        index = _index(folder)
        names = sorted(set(self._files) - set(index["weight_map"]))
        if not names:
            return
        tensors = {name: self._files[name].get_tensor(name) for name in names}
        save_file(tensors, folder / CARRIED_FILE, metadata={"format": "pt"})
        if (folder / _SINGLE_FILE).is_file():
            (folder / _SINGLE_FILE).rename(folder / _FIRST_OF_SEVERAL)
        index["weight_map"] |= dict.fromkeys(names, CARRIED_FILE)
        for key, count in (("total_size", lambda each: each.nbytes), ("total_parameters", lambda each: each.numel())):
            if key in index["metadata"]:
                index["metadata"][key] += sum(map(count, tensors.values()))
        (folder / WEIGHTS_INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def carried_names(folder: Path) -> set[str]:
    """The weights in a folder that are not the model's own."""
    path = folder / CARRIED_FILE
    if not path.is_file():
        return set()
    with safe_open(path, "pt") as file:
        return set(file.keys())


def _index(folder: Path) -> dict[str, Any]:
    """The folder's index, or what it will be once its only file is the first of several."""
    path = folder / _SINGLE_FILE
    if not path.is_file():
        return read_object(folder / WEIGHTS_INDEX)
    with safe_open(path, "pt") as file:
        names = list(file.keys())
    with path.open("rb") as content:
        header = 8 + int.from_bytes(content.read(8), "little")
    size = path.stat().st_size - header
    return {"metadata": {"total_size": size}, "weight_map": dict.fromkeys(names, _FIRST_OF_SEVERAL)}


def _open_files(path: str) -> Iterator[Any]:
    """The weight files of a folder, or of a model on the hub, which has been downloaded."""
    folder = Path(path) if Path(path).is_dir() else Path(snapshot_download(path, local_files_only=True))
    is_single = (folder / _SINGLE_FILE).is_file()
    names = {_SINGLE_FILE} if is_single else set(read_object(folder / WEIGHTS_INDEX).get("weight_map", {}).values())
    return (safe_open(folder / name, "pt").__enter__() for name in sorted(names))
