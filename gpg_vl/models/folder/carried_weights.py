"""Weights of a model folder that the model's class does not load, as those of heads for speculative decoding.

A model that is saved has them as they were, in a file of their own that the index names beside the others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, WeightTransform, rename_source_key

from gpg_vl.models.folder.loading import SINGLE_FILE, WEIGHTS_INDEX, local_folder, read_object, weight_files

CARRIED_FILE = "model-carried.safetensors"
_FIRST_OF_SEVERAL = "model-00001-of-00001.safetensors"


class CarriedWeights:
    """What a folder has beside the weights of its model; its files stay open, for the folder may be removed."""

    def __init__(self, path: str, model: PreTrainedModel, unexpected: Collection[str]):
        """
        Args:
            path: of the folder, or its name on the hub
            unexpected: names, as they were looked for in the model, that ``from_pretrained`` found no place for
        """
        patterns = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_unexpected or ()]
        own, find_name = set(model.state_dict()), names_when_loaded(model)
        self._files = {
            name: file
            for file in _open_files(path)
            for name in file.keys()  # noqa: SIM118  no dict
            if (sought := find_name(name)) not in own
            and (sought in unexpected or any(each.search(sought) for each in patterns))
        }

    def write(self, folder: Path) -> None:
        """Adds them to a folder into which the model was saved."""
        index = _index(folder)
        names = sorted(set(self._files) - set(index["weight_map"]))
        if not names:
            return
        tensors = {name: self._files[name].get_tensor(name) for name in names}
        save_file(tensors, folder / CARRIED_FILE, metadata={"format": "pt"})
        if (folder / SINGLE_FILE).is_file():
            (folder / SINGLE_FILE).rename(folder / _FIRST_OF_SEVERAL)
        index["weight_map"] |= dict.fromkeys(names, CARRIED_FILE)
        for key, count in (("total_size", lambda each: each.nbytes), ("total_parameters", lambda each: each.numel())):
            if key in index["metadata"]:
                index["metadata"][key] += sum(map(count, tensors.values()))
        (folder / WEIGHTS_INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def names_when_loaded(model: PreTrainedModel) -> Callable[[str], str]:
    """Under which name transformers looks in a model for a weight of a file, by its own rules: many are renamed."""
    return renamer(model, get_model_conversion_mapping(model))


def renamer(model: PreTrainedModel, conversions: list[WeightTransform]) -> Callable[[str], str]:
    """The same by given rules; it marks those that it applies as used."""
    own = model.state_dict()
    renamings = [each for each in conversions if isinstance(each, WeightRenaming)]
    converters = [each for each in conversions if isinstance(each, WeightConverter)]

    def rename(name: str) -> str:
        sought = str(rename_source_key(name, renamings, converters, model.base_model_prefix, own)[0])
        return name if sought not in own and name in own else sought

    return rename


def stored_names(path: str) -> list[str]:
    """Of all weights of a folder, or of a model on the hub; [] where nothing of it is on this machine yet."""
    folder = local_folder(path)
    in_index = [] if (folder / SINGLE_FILE).is_file() else [*read_object(folder / WEIGHTS_INDEX).get("weight_map", {})]
    return in_index or [name for file in _open_files(path) for name in file.keys()]  # noqa: SIM118  no dict


def carried_names(folder: Path) -> set[str]:
    """The weights in a folder that are not the model's own."""
    path = folder / CARRIED_FILE
    if not path.is_file():
        return set()
    with safe_open(path, "pt") as file:
        return set(file.keys())


def _index(folder: Path) -> dict[str, Any]:
    """The folder's index, or what it will be once its only file is the first of several."""
    path = folder / SINGLE_FILE
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
    return (safe_open(file, "pt").__enter__() for file in weight_files(local_folder(path)))
