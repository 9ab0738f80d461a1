"""A fitted preference head in a folder: ``gpg-vl prefer`` writes it, ``rewards.preference`` reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gpg_vl.config import HEAD_FILE, ModelConfig
from gpg_vl.errors import first_line
from gpg_vl.files import replace_file
from gpg_vl.learned.preferences import Scale
from gpg_vl.models.paths import resolve_model_path
from gpg_vl.preflight.pins import digest_model

INFO_FILE = "preference.json"


@dataclass(frozen=True, slots=True)
class PreferenceHead:
    """``weight . h - offset``: the log-odds that an answer is preferred to an average one."""

    weight: Tensor  # [H] float64
    offset: float

    @classmethod
    def of(cls, scale: Scale, w: Tensor) -> PreferenceHead:
        """
        Args:
            w: [D] in the scale's coordinates
        """
        weight = scale.directions @ w
        return cls(weight, float(weight @ scale.mean))

    def values(self, features: Tensor) -> list[float]:
        """In [0, 1], of hidden states [G, H]."""
        scores: list[float] = torch.sigmoid(features.double() @ self.weight - self.offset).tolist()
        return scores


def save_head(head: PreferenceHead, folder: Path, model: ModelConfig, info: Mapping[str, Any]) -> None:
    """
    Args:
        model: whose hidden states it reads
        info: what else is said of it
    """
    tensors = {"weight": head.weight, "offset": torch.tensor(head.offset, dtype=torch.float64)}
    save_file(tensors, folder / HEAD_FILE)
    replace_file(folder / INFO_FILE, json.dumps({"model": _reading(model), **info}, indent=1))


def load_head(folder: Path, model: ModelConfig) -> PreferenceHead:
    """
    Args:
        model: the run's initial model

    Raises:
        ValueError: there is no head, or it reads the hidden states of another model, or of images at another size
    """
    try:
        info = json.loads((folder / INFO_FILE).read_text(encoding="utf-8"))
        tensors = load_file(folder / HEAD_FILE)
    except (OSError, ValueError, SafetensorError) as error:
        reason = first_line(error)
        raise ValueError(
            f"rewards.preference: {folder} has no preference head ({reason}); write one with gpg-vl prefer"
        ) from error
    now, then = _reading(model), info["model"]
    if different := [key for key in now if key != "path" and now[key] != then.get(key)]:
        key = "path" if different[0] == "digest" else different[0]
        raise ValueError(
            f"rewards.preference: {folder} was fitted with model.{key} {then.get(key)}, and the recipe has {now[key]}; "
            "fit it again with gpg-vl prefer and this recipe"
        )
    return PreferenceHead(tensors["weight"], float(tensors["offset"]))


def _reading(model: ModelConfig) -> dict[str, Any]:
    """What hidden states depend on; the path is only what the model is called."""
    path = resolve_model_path(model.path, model.revision)
    digest = digest_model(Path(path))
    return {"path": path, "digest": digest, "min_pixels": model.min_pixels, "max_pixels": model.max_pixels}
