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
from gpg_vl.files import naming, replace_file
from gpg_vl.learned.preferences import Scale
from gpg_vl.preflight.preference import INFO_FILE, check_head, describe_reading


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
    with naming(folder / HEAD_FILE):
        save_file(tensors, folder / HEAD_FILE)
    replace_file(folder / INFO_FILE, json.dumps({"model": describe_reading(model), **info}, indent=1))


def load_head(folder: Path, model: ModelConfig) -> PreferenceHead:
    """
    Args:
        model: the run's initial model

    Raises:
        ValueError: there is no head, or it reads the hidden states of another model, or of images at another size
    """
    check_head(folder, model)
    try:
        tensors = load_file(folder / HEAD_FILE)
    except (OSError, SafetensorError) as error:
        reason = first_line(error)
        raise ValueError(
            f"rewards.preference: {folder / HEAD_FILE} cannot be read ({reason}); write it again with gpg-vl prefer"
        ) from error
    return PreferenceHead(tensors["weight"], float(tensors["offset"]))
