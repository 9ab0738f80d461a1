"""Images and videos of one prompt: which of them are videos, their texts in its text, their features in its order."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor
from transformers.video_utils import VideoMetadata

from gpg_vl.models.inputs.parts import Medium
from gpg_vl.records import FrameTimes, ImageFeatures, ImageView, VideoView


def split_views(views: Sequence[ImageView]) -> tuple[list[ImageView], list[VideoView]]:
    """Those of images, and those of videos."""
    videos = [view for view in views if isinstance(view, VideoView)]
    return [view for view in views if not isinstance(view, VideoView)], videos


def fill_in(text: str, texts: Mapping[str, Sequence[str]]) -> str:
    """
    Args:
        texts: placeholder -> what replaces it, one for each time it occurs
    """
    pieces = re.split("(" + "|".join(map(re.escape, texts)) + ")", text)
    for placeholder, given in texts.items():
        found = pieces.count(placeholder)
        assert found == len(given), f"{found} placeholders {placeholder} for {len(given)}"
    left = {placeholder: iter(given) for placeholder, given in texts.items()}
    return "".join(next(left[piece]) if piece in left else piece for piece in pieces)


def order_of_media(text: str, placeholders: Mapping[Medium, str]) -> list[Medium]:
    """What a rendered prompt shows, from its start to its end."""
    media = {placeholder: medium for medium, placeholder in placeholders.items()}
    return [media[found] for found in re.findall("|".join(map(re.escape, media)), text)]


def frames_tensor(frames: Sequence[Image]) -> Tensor:
    """[F, 3, H, W] uint8."""
    return torch.stack([pil_to_tensor(frame) for frame in frames])


def describe_times(times: FrameTimes) -> VideoMetadata:
    """The times as a processor of transformers takes them; a new object each time, as processors change it."""
    return VideoMetadata(
        total_num_frames=times.num_frames,
        fps=times.fps,
        duration=times.num_frames / times.fps,
        frames_indices=list(times.numbers),
    )


def interleave(images: ImageFeatures, videos: ImageFeatures, order: Sequence[tuple[bool, int]]) -> ImageFeatures:
    """The features of all images, and those of all videos, in the order of the prompts' tokens.

    Args:
        order: as ``VisionInputs.order``
    """
    counts = {kind: [num for is_video, num in order if is_video == kind] for kind in (False, True)}
    levels = []
    for level in zip(images.levels, videos.levels, strict=True):
        left = {kind: iter(of_kind.split(counts[kind])) for kind, of_kind in zip((False, True), level, strict=True)}
        levels.append(torch.cat([next(left[is_video]) for is_video, _ in order]))
    return ImageFeatures(tuple(levels))
