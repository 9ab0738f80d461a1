"""What the kit does with vision inputs and image features, which no other room looks into.

Inputs and features of several prompts are joined and split in the order of the prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gpg_vl.records import ImageFeatures, VisionInputs


def join_vision(parts: Sequence[VisionInputs]) -> VisionInputs:
    """Joins inputs whose tensors list images, videos, tiles or patches along their first dimension."""
    names = dict.fromkeys(name for part in parts for name in part.tensors)
    tensors = {name: torch.cat([part.tensors[name] for part in parts if name in part.tensors]) for name in names}
    order: tuple[tuple[bool, int], ...] = ()
    if any(part.order for part in parts):
        order = tuple(each for part in parts for each in part.order or ((False, part.num_tokens),))
    num_patches = sum(part.num_patches for part in parts)
    return VisionInputs(tensors, num_patches, sum(part.num_tokens for part in parts), order)


def move_vision(vision: VisionInputs, device: torch.device) -> VisionInputs:
    return replace(vision, tensors={name: t.to(device, non_blocking=True) for name, t in vision.tensors.items()})


def pin_vision(vision: VisionInputs) -> VisionInputs:
    """In memory from which a GPU copies by itself; elsewhere the copy waits, whatever it is told."""
    return replace(vision, tensors={name: tensor.pin_memory() for name, tensor in vision.tensors.items()})


def join_features(parts: Sequence[ImageFeatures]) -> ImageFeatures:
    return ImageFeatures(tuple(torch.cat(level) for level in zip(*(part.levels for part in parts), strict=True)))


def split_features(features: ImageFeatures, counts: Sequence[int]) -> list[ImageFeatures]:
    """
    Args:
        counts: number of image tokens of each part
    """
    levels = [level.split(list(counts)) for level in features.levels]
    return [ImageFeatures(part) for part in zip(*levels, strict=True)]


def select_features(features: ImageFeatures, index: Tensor) -> ImageFeatures:
    """The features of some image tokens, which may be taken several times.

    Args:
        index: [I] places in ``features``
    """
    # index_select, not [...]: see update.policy.source_states
    return ImageFeatures(tuple(level.index_select(0, index) for level in features.levels))


def move_features(features: ImageFeatures, device: torch.device) -> ImageFeatures:
    return ImageFeatures(tuple(level.to(device, non_blocking=True) for level in features.levels))


def features_to_tensors(features: ImageFeatures) -> tuple[Tensor, ...]:
    """The features as tensors on the CPU that can be written to a file."""
    return tuple(level.cpu().contiguous() for level in features.levels)


def tensors_to_features(tensors: Sequence[Tensor]) -> ImageFeatures:
    """The reverse of ``features_to_tensors``."""
    return ImageFeatures(tuple(tensors))


def feature_distance(found: ImageFeatures, expected: ImageFeatures) -> float:
    """Norm of the difference, as a fraction of the norm of ``expected``; the largest over the levels."""
    levels = zip(found.levels, expected.levels, strict=True)
    return max(float((one - other).norm() / other.norm()) for one, other in levels)
