"""Moves, splits and joins the vision inputs and image features of several prompts, in the order of the prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from gpg_vl.records import ImageFeatures, VisionInputs


def join_vision(parts: Sequence[VisionInputs]) -> VisionInputs:
    """Joins inputs whose tensors list images, tiles or patches along their first dimension."""
    tensors = {name: torch.cat([part.tensors[name] for part in parts]) for name in parts[0].tensors}
    return VisionInputs(tensors, sum(part.num_patches for part in parts), sum(part.num_tokens for part in parts))


def move_vision(vision: VisionInputs, device: torch.device) -> VisionInputs:
    return replace(vision, tensors={name: t.to(device, non_blocking=True) for name, t in vision.tensors.items()})


def join_features(parts: Sequence[ImageFeatures]) -> ImageFeatures:
    return ImageFeatures(tuple(torch.cat(level) for level in zip(*(part.levels for part in parts), strict=True)))


def split_features(features: ImageFeatures, counts: Sequence[int]) -> list[ImageFeatures]:
    """
    Args:
        counts: number of image tokens of each part
    """
    levels = [level.split(list(counts)) for level in features.levels]
    return [ImageFeatures(part) for part in zip(*levels, strict=True)]


def move_features(features: ImageFeatures, device: torch.device) -> ImageFeatures:
    return ImageFeatures(tuple(level.to(device, non_blocking=True) for level in features.levels))
